"""Fetch what a model needs from the hub, or find it in the hub's cache.

huggingface_hub is imported only inside the functions. Takes top-level files only, never pickles.
"""

from __future__ import annotations

import glob
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.suite.model_files import (
    CONFIG,
    SINGLE_WEIGHTS,
    TOKENIZER_FILES,
    WEIGHTS_INDEX,
    FilesMissing,
    SourceError,
    SourceUnavailable,
    check_config,
    describe_no_config,
    describe_no_tokenizer,
    describe_no_weights,
    has_tokenizer,
    list_weights,
)

_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_REQUEST_TIMEOUT_S = 10.0
_SILENCE_S = 20.0  # how long a download goes on retrying when nothing answers


def hub_is_reachable(timeout_s: float = 5.0) -> bool:
    """Ask the hub's endpoint once; True where anything but a server error answers in time.

    Obeys HF_ENDPOINT, HF_HUB_OFFLINE and the proxy variables. No retries; never longer than
    ``timeout_s``, name resolution included.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[int] = []

    def ask() -> None:
        try:
            response = get_session().request(
                "HEAD", constants.ENDPOINT, timeout=timeout_s, follow_redirects=False
            )
        except (OSError, _http_error()):
            return
        answers.append(response.status_code)

    # A thread, because no timeout covers getaddrinfo.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(answers) and answers[0] < 500


def fetch_model(repo: str, revision: str | None, *, online: bool, allow_code: bool) -> str:
    """The folder of one commit in the hub's cache, named after it, with all a model needs in it."""
    patterns = [CONFIG, "generation_config.json", WEIGHTS_INDEX, *TOKENIZER_FILES]
    if allow_code:
        patterns.append("*.py")

    def check(folder: Path) -> None:
        check_config(folder, repo)
        list_weights(folder, repo)

    choose = partial(_choose_model_files, repo, allow_code)
    return _fetch(repo, revision, choose, patterns, check, online)


def fetch_tokenizer(repo: str, *, online: bool) -> str:
    """The folder in the hub's cache with the tokenizer of the repository's main branch."""

    def check(folder: Path) -> None:
        if not has_tokenizer(os.listdir(folder)):
            raise describe_no_tokenizer(repo)

    choose = partial(_choose_tokenizer_files, repo)
    return _fetch(repo, None, choose, [CONFIG, *TOKENIZER_FILES], check, online)


def _fetch(
    repo: str,
    revision: str | None,
    choose: Callable[[list[str]], list[str]],
    patterns: list[str],
    check: Callable[[Path], None],
    online: bool,
) -> str:
    """The snapshot folder with the files that ``choose`` picks from the repository's.

    A hub that fails on the way is no error as long as the cache can answer: whatever the repository
    has of ``patterns`` must be in it, and ``check`` must not miss a file.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    what = repo if revision is None else f"{repo} at {revision}"
    absent = SourceUnavailable(f"{what} is not in the local cache and the hub cannot be reached")
    if online:
        try:
            with _explain_errors(repo, revision), _bound_retries():
                return _download(repo, revision, choose)
        except SourceUnavailable as error:
            absent = error
    try:
        # A pattern's '*' also matches '/': without ignore_patterns, original/*.py would count.
        place = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],
            local_files_only=True,
        )
        check(Path(place))
    except HFValidationError as error:
        raise _describe_bad_id(repo, error) from error
    except (LocalEntryNotFoundError, FilesMissing) as error:
        raise absent from (absent.__cause__ or error)
    return place


def _describe_bad_id(repo: str, error: Exception) -> SourceError:
    return SourceError(f"{repo!r} is not a hub id: {' '.join(str(error).split())}")


def _download(repo: str, revision: str | None, choose: Callable[[list[str]], list[str]]) -> str:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    info = HfApi().model_info(repo, revision=revision, timeout=_REQUEST_TIMEOUT_S)
    assert info.sha is not None, "the hub names the commit of a revision"
    names = choose([s.rfilename for s in info.siblings or () if "/" not in s.rfilename])
    if revision != info.sha:
        # Notes in the cache which commit the branch is at, for later offline runs; a download by
        # commit leaves no such note.
        hf_hub_download(repo, names[0], revision=revision)
    place = snapshot_download(
        repo, revision=info.sha, allow_patterns=[glob.escape(name) for name in names]
    )
    # Where the hub dies between two requests, snapshot_download returns what there is.
    missing = [name for name in names if not os.path.isfile(os.path.join(place, name))]
    if missing:
        raise OSError(f"the download ended without {', '.join(missing[:3])}")
    return place


@contextmanager
def _explain_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into `SourceError` and `SourceUnavailable`."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:  # a subclass of RepositoryNotFoundError
        raise SourceUnavailable(
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo} and set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"{repo}: no such model on the hub, or private and no token given: "
            "check the id or set HF_TOKEN"
        ) from error
    except errors.HFValidationError as error:
        raise _describe_bad_id(repo, error) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"{repo} has no revision {revision!r} on the hub") from error
    except (OSError, RuntimeError, _http_error()) as error:  # RuntimeError: hf_xet's own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceUnavailable(f"{repo} could not be fetched from the hub: {reason}") from error


@contextmanager
def _bound_retries() -> Iterator[None]:
    """Give every request a timeout, and end the retrying when nothing has answered for a while.

    huggingface_hub 2.4 lists a repository without any timeout and repeats an unanswered HEAD six
    times for 60 s each: a network that dies in mid-run would cost more than five minutes.
    """
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    asked_at: list[float] = []  # requests since the last answer

    def before(request: Any) -> None:
        now = time.monotonic()
        first = asked_at[:1]  # a copy: other threads clear the list
        if first and now - first[0] > _SILENCE_S:
            # The one exception that every loop in the client takes as final.
            raise OfflineModeIsEnabled(f"no answer within {_SILENCE_S:.0f} s")
        asked_at.append(now)
        timeouts = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            phase: min(timeouts.get(phase) or _REQUEST_TIMEOUT_S, _REQUEST_TIMEOUT_S)
            for phase in ("connect", "read", "write", "pool")
        }

    def after(_: Any) -> None:
        asked_at.clear()

    hooks = get_session().event_hooks
    hooks["request"].append(before)
    hooks["response"].append(after)
    try:
        yield
    finally:
        hooks["request"].remove(before)
        hooks["response"].remove(after)


def _http_error() -> type[Exception]:
    """The base of the HTTP client's errors: httpx or httpx2, whichever huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    base = HfHubHTTPError.__mro__[1]
    assert issubclass(base, Exception)
    return base


def _choose_model_files(repo: str, allow_code: bool, names: list[str]) -> list[str]:
    """What to download of a model; raises `SourceError` where it could not be loaded."""
    if CONFIG not in names:
        raise describe_no_config(repo, names)
    if SINGLE_WEIGHTS in names:
        weights = [SINGLE_WEIGHTS]
    elif WEIGHTS_INDEX in names:
        # Some repositories hold everything twice (consolidated.safetensors beside the shards).
        shards = [name for name in names if _SHARD.fullmatch(name)]
        weights = [WEIGHTS_INDEX, *(shards or [n for n in names if n.endswith(".safetensors")])]
    else:
        raise describe_no_weights(repo, names)
    wanted = {"generation_config.json", *TOKENIZER_FILES}
    code = [name for name in names if allow_code and name.endswith(".py")]
    return [CONFIG, *weights, *code, *(name for name in names if name in wanted)]


def _choose_tokenizer_files(repo: str, names: list[str]) -> list[str]:
    if not has_tokenizer(names):
        raise describe_no_tokenizer(repo)
    # AutoTokenizer reads the model type from config.json where it is not told the class.
    return [name for name in names if name in {CONFIG, *TOKENIZER_FILES}]
