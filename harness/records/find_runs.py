"""Run files by what a person calls them: a file, a folder, or a git revision that holds them.

A folder and a revision give the newest run of each suite and device. A revision is read through
git's objects: the work tree is never touched.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from harness.errors import InputError
from harness.machine.environment import device_slug
from harness.machine.git import run_git
from harness.records.identity import find_board
from harness.records.run_file import Run, parse_run

RESULTS = "results"
THRESHOLDS = "thresholds"
_RUN_NAME = re.compile(
    r"\d{8}T\d{6}Z-(nogit|[0-9a-f]{4,40})(-dirty)?-(?P<device>.+?)(-[2-9])?\.json"
)
_SUITE = re.compile(rb'"id": "([^"]*)/')  # what a run file's `run` begins with
_HEAD_BYTES = 4096

# A file by its name, at least its first bytes (all for -1); None where there is no such file.
_Read = Callable[[str, int], bytes | None]


@dataclass(frozen=True)
class Found:
    """A run, its name for a person, and how to read a file stored with it (None: not there).

    ``of`` is the number of runs of the same suite and device that it is the newest of.
    """

    name: str
    run: Run
    read_beside: Callable[[str], bytes | None]
    of: int = 1

    @property
    def label(self) -> str:
        """The name, and what a person has to know who did not choose this very run."""
        notes = [f"the newest of {self.of} runs"] if self.of > 1 else []
        if self.run.run.interrupted:
            words = ("interrupted", "cut off")  # how a run says how much of it was made
            said = [text for text in self.run.run.remarks if text.startswith(words)]
            notes += said or ["interrupted"]
        return f"{self.name} ({'; '.join(notes)})" if notes else self.name


def find_runs(argument: str, root: Path) -> tuple[Found, ...]:
    """The runs that ``argument`` names; revisions are those of the repository at ``root``.

    Raises `InputError` for what is neither, holds none, or cannot be read.
    """
    path = Path(argument)
    read: _Read = partial(_read_file, path)
    if path.is_file():
        return (_open(path.name, argument, partial(_read_file, path.parent)),)
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*.json")]
        nothing = "in this folder; they are called <time>-<commit>-<device>.json"
        shown = f"{path}/"
    else:
        revision = resolve_revision(argument, root)
        names = list_at_revision(root, revision)
        nothing = (
            f"is committed under {RESULTS}/ at {revision[:10]}; commit what is to be compared by "
            f"revision, for example under {RESULTS}/reference/"
        )
        shown = f"{argument}:"

        def read(name: str, _: int) -> bytes | None:
            return read_at_revision(root, revision, name)

    newest = _pick_newest(names, read)
    if not newest:
        raise InputError(f"{argument}: no run file {nothing}")
    return tuple(_open(name, f"{shown}{name}", read, of) for name, of in newest)


def find_all_runs(argument: str, root: Path) -> tuple[Found, ...]:
    """As `find_runs`, and of a folder every run, older ones too."""
    path = Path(argument)
    if not path.is_dir():
        return find_runs(argument, root)
    find_runs(argument, root)  # says what is wrong with a folder without any
    names = list_run_files(p.relative_to(path).as_posix() for p in path.rglob("*.json"))
    return tuple(_open(name, str(path / name), partial(_read_file, path)) for name in names)


def name_device(run: Run) -> str:
    """The device's name as in the names of run files and thresholds."""
    environment = run.environment
    gpu = find_board(environment, run.run.device).get("name")
    return device_slug(run.run.device, gpu, environment.get("cpu", {}).get("name") or "")


def read_at_revision(root: Path, revision: str, path: str) -> bytes | None:
    """A file as committed; None where the revision has none."""
    done = run_git(root, "show", f"{revision}:./{path}")
    return done.stdout if done.returncode == 0 else None


def resolve_revision(argument: str, root: Path) -> str:
    """The commit's full hash. Raises `InputError` where it is neither a path nor a revision."""
    commit = f"{argument}^{{commit}}"
    done = run_git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", commit)
    if done.returncode != 0:
        raise InputError(
            f"{argument!r} is neither a run file or folder, nor a git revision of {root}"
        )
    return done.stdout.decode().strip()


def list_at_revision(root: Path, revision: str) -> list[str]:
    """The JSON files under ``results/`` of a commit, relative to ``root``."""
    done = run_git(root, "ls-tree", "-r", "-z", "--name-only", revision, "--", RESULTS)
    names = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    return [name for name in names if name.endswith(".json")]


def list_run_files(names: Iterable[str]) -> list[str]:
    """The paths that are named as run files are, the newest first, without thresholds."""
    paths = map(PurePosixPath, names)
    found = [p for p in paths if _RUN_NAME.fullmatch(p.name) and THRESHOLDS not in p.parts]
    return [str(path) for path in sorted(found, key=lambda path: path.name, reverse=True)]


def _pick_newest(names: Iterable[str], read: _Read) -> list[tuple[str, int]]:
    """The newest run file of each suite and device, and how many of them there are."""
    alike: dict[tuple[str, str | None], list[str]] = {}
    for name in list_run_files(names):
        path = PurePosixPath(name)
        head = _SUITE.search((read(name, _HEAD_BYTES) or b"")[:_HEAD_BYTES])
        suite = head[1].decode() if head else str(path.parent)
        match = _RUN_NAME.fullmatch(path.name)
        alike.setdefault((suite, match and match["device"]), []).append(name)
    return sorted((found[0], len(found)) for found in alike.values())


def _open(name: str, shown: str, read: _Read, of: int = 1) -> Found:
    content = read(name, -1)
    if content is None:
        raise InputError(f"{shown}: cannot be read")
    run = parse_run(content, shown)
    if not run.records:
        raise InputError(f"{shown}: this run has no record: nothing was measured")
    folder = PurePosixPath(name).parent
    return Found(shown, run, lambda other: read(str(folder / other), -1), of)


def _read_file(folder: Path, name: str, size: int) -> bytes | None:
    path = folder / name
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
