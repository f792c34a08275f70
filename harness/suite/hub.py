"""Fetch a model's files from the hub, or find them in the hub's cache.

huggingface_hub is imported only inside the functions. Takes top-level files only, never pickles.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.suite.model_files import (
    FilesMissing,
    SourceError,
    SourceUnavailable,
    choose_files,
    list_wanted,
    list_weights,
)

_REQUEST_TIMEOUT_S = 10.0
_SILENCE_S = 20.0  # how long a download goes on retrying when nothing answers


def hub_is_reachable(timeout_s: float = 5.0) -> bool:
    """Ask the hub's endpoint once; True where anything but a server error answers in time.

    Obeys HF_ENDPOINT, HF_HUB_OFFLINE and the proxy variables.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        response = get_session().request(
            "HEAD", constants.ENDPOINT, timeout=timeout_s, follow_redirects=False
        )
    except (OSError, _http_error()):
        return False
    return response.status_code < 500


def fetch(
    repo: str, revision: str | None, *, online: bool, weights: bool, code: bool = False
) -> str:
    """The folder of one commit in the hub's cache, named after it, with all a model needs in it.

    Without ``weights``: all a tokenizer needs; ``code`` takes the Python files too. Where the hub
    fails on the way, the cache may answer. Raises `SourceUnavailable` and `SourceError`.
    """
    from huggingface_hub import constants, errors

    choose = partial(choose_files, repo, weights=weights, code=code)
    what = repo if revision is None else f"{repo} at {revision}"
    absent = f"{what} is not in the local cache and the hub cannot be reached"
    try:
        if online:
            try:
                with _give_up_on_silence():
                    return _download(repo, revision, choose)
            except errors.GatedRepoError:  # a subclass of RepositoryNotFoundError
                page = f"{constants.ENDPOINT}/{repo}"
                absent = f"{repo} is gated: accept its terms at {page} and set HF_TOKEN"
            except errors.RepositoryNotFoundError as error:
                raise SourceError(
                    f"{repo}: no such model on the hub, or private and no token given: "
                    "check the id or set HF_TOKEN"
                ) from error
            except errors.RevisionNotFoundError as error:
                raise SourceError(f"{repo} has no revision {revision!r} on the hub") from error
            except (OSError, RuntimeError, _http_error()) as error:  # RuntimeError: hf_xet's own
                reason = " ".join(str(error).split()) or type(error).__name__
                absent = f"{repo} could not be fetched from the hub: {reason}"
        place = _find_cached(repo, revision, weights, code)
    except errors.HFValidationError as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{repo!r} is not a hub id: {reason}") from error
    if place is None:
        raise SourceUnavailable(absent)
    return place


def _find_cached(repo: str, revision: str | None, weights: bool, code: bool) -> str | None:
    """The snapshot folder; None where the cache does not hold all that is needed."""
    from huggingface_hub import errors, snapshot_download

    try:
        # A pattern's '*' also matches '/': without ignore_patterns, original/*.py would count.
        place = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[*list_wanted(weights), *(["*.py"] if code else [])],
            ignore_patterns=["*/*"],
            local_files_only=True,
        )
        choose_files(repo, os.listdir(place), weights=weights, code=code)
        if weights:
            list_weights(Path(place), repo)
    except (errors.LocalEntryNotFoundError, FilesMissing):
        return None
    return place


def _download(repo: str, revision: str | None, choose: Callable[[list[str]], list[str]]) -> str:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repo, revision=revision)
    names = choose([s.rfilename for s in info.siblings or () if "/" not in s.rfilename])
    # Not by info.sha: only a download by branch notes in the cache, for later offline runs, which
    # commit the branch is at.
    place = snapshot_download(
        repo, revision=revision, allow_patterns=[glob.escape(name) for name in names]
    )
    # Where the hub dies between two requests, snapshot_download returns what there is.
    missing = [name for name in names if not os.path.isfile(os.path.join(place, name))]
    if missing:
        raise OSError(f"the download ended without {', '.join(missing[:3])}")
    return place


@contextmanager
def _give_up_on_silence() -> Iterator[None]:
    """Give every request a timeout, and end the retrying when nothing has answered for a while.

    huggingface_hub 2.4 lists a repository without any timeout and repeats an unanswered HEAD six
    times for 60 s each: a network that dies in mid-run would cost more than five minutes.
    """
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    silent_since: float | None = None  # the first request since the last answer

    def before(request: Any) -> None:
        nonlocal silent_since
        now = time.monotonic()
        since = silent_since or now
        silent_since = since
        if now - since > _SILENCE_S:
            # The one exception that no loop in the client catches to try again.
            raise OfflineModeIsEnabled(f"no answer within {_SILENCE_S:.0f} s")
        phases = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = dict.fromkeys(phases, _REQUEST_TIMEOUT_S)

    def after(_: Any) -> None:
        nonlocal silent_since
        silent_since = None

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
