"""Fetch a model's files from the hub, or find them in the hub's cache.

Importing it takes a while. Takes top-level files only, never pickles.
"""

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, get_session, scan_cache_dir, snapshot_download

from harness.errors import InputError, UnavailableError
from harness.suite.model_files import FilesMissing, choose_files, list_wanted, list_weights

_REQUEST_TIMEOUT_S = 10.0
_SILENCE_S = 20.0  # how long a download goes on retrying when nothing answers
# The base of the HTTP client's errors: httpx or httpx2, whichever huggingface_hub uses.
_HTTP_ERROR: type[Exception] = errors.HfHubHTTPError.__mro__[1]


def hub_is_reachable(timeout_s: float = 5.0) -> bool:
    """Ask the hub's endpoint once; True where anything but a server error answers in time.

    Obeys HF_ENDPOINT, HF_HUB_OFFLINE and the proxy variables. Connecting and answering may each
    take ``timeout_s``; looking up the host's name takes as long as the system lets it.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        response = get_session().request(
            "HEAD", constants.ENDPOINT, timeout=timeout_s, follow_redirects=False
        )
    except (OSError, _HTTP_ERROR):
        return False
    return response.status_code < 500


def fetch(
    repo: str,
    revision: str | None,
    *,
    online: bool,
    weights: bool,
    code: bool,
    head: bool = False,
) -> str:
    """The folder of one commit in the hub's cache, named after it, with all a model needs in it.

    Without ``weights``: all a tokenizer needs; ``code`` takes the Python files too, ``head`` the
    config instead of weights. Where the hub fails on the way, the cache may answer. Raises
    `UnavailableError` and `InputError`.
    """
    what = repo if revision is None else f"{repo} at {revision}"
    absent = (
        f"{what} is not in the local cache and the hub cannot be reached "
        "(nor does the suite's folder hold a folder of that name)"
    )
    try:
        if online:
            try:
                with _give_up_on_silence():
                    return _download(repo, revision, weights, code, head)
            except errors.GatedRepoError:  # a subclass of RepositoryNotFoundError
                page = f"{constants.ENDPOINT}/{repo}"
                absent = f"{repo} is gated: accept its terms at {page} and set HF_TOKEN"
            except errors.RepositoryNotFoundError as error:
                raise InputError(
                    f"{repo}: no such model on the hub, or private and no token given: "
                    "check the id or set HF_TOKEN"
                ) from error
            except errors.RevisionNotFoundError as error:
                raise InputError(f"{repo} has no revision {revision!r} on the hub") from error
            except (OSError, RuntimeError, _HTTP_ERROR) as error:  # RuntimeError: hf_xet's own
                reason = " ".join(str(error).split()) or type(error).__name__
                absent = f"{repo} could not be fetched from the hub: {reason}"
        try:
            return _find_cached(repo, revision, weights, code, head)
        except (errors.LocalEntryNotFoundError, FilesMissing) as error:
            raise UnavailableError(absent) from error
    except errors.HFValidationError as error:
        raise InputError(f"{repo!r} is not a hub id: {' '.join(str(error).split())}") from error


def read_remote_headers(
    repo: str, commit: str
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], int] | None:
    """Dtype and shape of every tensor, and the bytes of the weight files; reads their headers only.

    None where the hub does not answer. ``commit`` is what `fetch` has found.
    """
    try:
        with _give_up_on_silence():
            info = HfApi().model_info(repo, revision=commit, files_metadata=True)
            sizes = {
                s.rfilename: s.size or 0 for s in info.siblings or () if "/" not in s.rfilename
            }
            names = choose_files(repo, list(sizes), weights=True, code=False)
            files = [name for name in names if name.endswith(".safetensors")]
            read = HfApi().parse_safetensors_file_metadata
            tensors = {
                name: (str(found.dtype), tuple(found.shape))
                for file in files
                for name, found in read(repo, file, revision=commit).tensors.items()
            }
    except (OSError, RuntimeError, _HTTP_ERROR, errors.SafetensorsParsingError):
        return None
    return tensors, sum(sizes[file] for file in files)


def list_cached() -> dict[str, int]:
    """The bytes of each model in the hub's cache that has a config and all its weights."""
    try:
        found = scan_cache_dir()
    except errors.CacheNotFound:
        return {}
    models = {}
    for repo in sorted(found.repos, key=lambda repo: repo.repo_id):
        folders = [revision.snapshot_path for revision in repo.revisions]
        if repo.repo_type == "model" and any(map(_is_whole, folders)):
            models[repo.repo_id] = repo.size_on_disk
    return models


def _is_whole(folder: Path) -> bool:
    try:
        choose_files(str(folder), os.listdir(folder), weights=True, code=False)
        return bool(list_weights(folder, str(folder)))
    except (InputError, OSError):
        return False


def _find_cached(repo: str, revision: str | None, weights: bool, code: bool, head: bool) -> str:
    # A pattern's '*' also matches '/': without ignore_patterns, original/*.py would count.
    place = snapshot_download(
        repo,
        revision=revision,
        allow_patterns=[*list_wanted(weights), *(["*.py"] if code else [])],
        ignore_patterns=["*/*"],
        local_files_only=True,
    )
    choose_files(repo, os.listdir(place), weights=weights, code=code, head=head)
    if weights and not head:
        list_weights(Path(place), repo)
    return place


def _download(repo: str, revision: str | None, weights: bool, code: bool, head: bool) -> str:
    info = HfApi().model_info(repo, revision=revision)
    listed = [s.rfilename for s in info.siblings or () if "/" not in s.rfilename]
    names = choose_files(repo, listed, weights=weights, code=code, head=head)
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
    silent_since: float | None = None  # the first request since the last answer

    def before(request: Any) -> None:
        nonlocal silent_since
        now = time.monotonic()
        first = silent_since or now  # a copy: an answer in another thread sets it to None
        silent_since = first
        if now - first > _SILENCE_S:
            # The one exception that no loop in the client catches to try again.
            raise errors.OfflineModeIsEnabled(f"no answer within {_SILENCE_S:.0f} s")
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            phase: min(given.get(phase) or _REQUEST_TIMEOUT_S, _REQUEST_TIMEOUT_S)
            for phase in ("connect", "read", "write", "pool")
        }

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
