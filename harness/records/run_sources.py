"""Run files by what a person calls them: a file, a folder, or a git revision that holds them.

A folder and a revision give the newest run of each suite and device. A revision is read through
git's objects: the work tree is never touched.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.errors import InputError
from harness.machine.environment import device_slug
from harness.records.run_file import Run, parse_run

RESULTS = "results"
THRESHOLDS = "thresholds"
_RUN_NAME = re.compile(r"(?P<utc>\d{8}T\d{6}Z)-(nogit|[0-9a-f]{4,40})(-dirty)?-(?P<rest>.+)\.json")


_SUITE = re.compile(rb'"id": "([^"]*)/')  # what a run file's `run` begins with
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Found:
    """A run, what it is called, and how to read a file that lies beside it (None: not there)."""

    name: str
    run: Run
    read_beside: Callable[[str], bytes | None]


def find_runs(argument: str, root: Path) -> tuple[Found, ...]:
    """The runs that ``argument`` names; revisions are those of the repository at ``root``.

    Raises `InputError` for what is neither, holds none, or cannot be read.
    """
    path = Path(argument)
    if path.is_file():
        return (_read_file(path),)
    if path.is_dir():
        names = [str(p.relative_to(path)) for p in path.rglob("*.json")]
        newest = _pick_newest(names, lambda name: _read_head(path / name))
        if not newest:
            raise InputError(
                f"{argument}: no run file in this folder; they are called "
                "<time>-<commit>-<device>.json"
            )
        return tuple(_read_file(path / name) for name in newest)
    return _find_at_revision(argument, root)


def name_device(run: Run) -> str:
    """The device's name as in the names of run files and thresholds."""
    environment = run.environment
    boards = environment.get("gpu", {}).get("devices") or ()
    kind, _, index = run.run.device.partition(":")
    number = int(index or 0)
    gpu = boards[number].get("name") if kind == "cuda" and number < len(boards) else None
    return device_slug(run.run.device, gpu, environment.get("cpu", {}).get("name") or "")


def read_at_revision(root: Path, revision: str, path: str) -> bytes | None:
    """A file as committed; None where the revision has none."""
    done = _git(root, "show", f"{revision}:./{path}")
    return done.stdout if done.returncode == 0 else None


def resolve_revision(argument: str, root: Path) -> str:
    """The commit's full hash. Raises `InputError` where it is neither a path nor a revision."""
    commit = f"{argument}^{{commit}}"
    done = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", commit)
    if done.returncode != 0:
        raise InputError(
            f"{argument!r} is neither a run file or folder, nor a git revision of {root}"
        )
    return done.stdout.decode().strip()


def list_at_revision(root: Path, revision: str) -> list[str]:
    """The JSON files under ``results/`` of a commit, relative to ``root``."""
    done = _git(root, "ls-tree", "-r", "-z", "--name-only", revision, "--", RESULTS)
    names = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    return [name for name in names if name.endswith(".json")]


def _find_at_revision(argument: str, root: Path) -> tuple[Found, ...]:
    revision = resolve_revision(argument, root)
    newest = _pick_newest(
        list_at_revision(root, revision),
        lambda name: read_at_revision(root, revision, name) or b"",
    )
    if not newest:
        raise InputError(
            f"{argument} ({revision[:10]}): no run file is committed under {RESULTS}/; commit what "
            "is to be compared by revision, for example under results/reference/"
        )
    return tuple(_read_committed(root, revision, argument, name) for name in newest)


def _read_committed(root: Path, revision: str, argument: str, name: str) -> Found:
    content = read_at_revision(root, revision, name)
    where = f"{argument}:{name}"
    if content is None:
        raise InputError(f"{where}: git cannot read it")
    folder = PurePosixPath(name).parent
    return Found(
        where,
        _parse(content, where),
        lambda beside: read_at_revision(root, revision, str(folder / beside)),
    )


def _read_file(path: Path) -> Found:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None

    def read_beside(name: str) -> bytes | None:
        beside = path.parent / name
        return beside.read_bytes() if beside.is_file() else None

    return Found(str(path), _parse(content, str(path)), read_beside)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _parse(content: bytes, where: str) -> Run:
    try:
        run = parse_run(content, where)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not run.records:
        raise InputError(f"{where}: this run has no record: nothing was measured")
    return run


def list_run_files(names: Iterable[str]) -> list[str]:
    """Of paths those called as run files are, the newest first; thresholds are none."""
    found = [
        name
        for name in names
        if _RUN_NAME.fullmatch(PurePosixPath(name).name)
        and THRESHOLDS not in PurePosixPath(name).parts
    ]
    return sorted(found, key=lambda name: PurePosixPath(name).name, reverse=True)


def _pick_newest(names: Iterable[str], read: Callable[[str], bytes]) -> list[str]:
    """The newest of each suite and device; ``read`` gives a file's first bytes at least."""
    newest: dict[tuple[str, str], str] = {}
    for name in list_run_files(names):
        match = _RUN_NAME.fullmatch(PurePosixPath(name).name)
        assert match is not None
        told = _SUITE.search(read(name)[:_HEAD_BYTES])
        suite = told[1].decode() if told else str(PurePosixPath(name).parent)
        newest.setdefault((suite, re.sub(r"-[2-9]$", "", match["rest"])), name)
    return sorted(newest.values())


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    except OSError as error:
        raise InputError(f"git cannot be run: {error.strerror}") from None
