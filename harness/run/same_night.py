"""A blessed commit measured again, in turn with the code of this run: what `--confirm` does.

That commit's files are put in a temporary folder; its code runs there in the same Python, with the
same libraries. Pairs of fresh processes go A B, B A, … as those of `harness ab`.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from harness.errors import InputError, UnavailableError
from harness.machine.git import run_git
from harness.records.record import Outcome, Record, SameNight
from harness.run import ab
from harness.run.settings import RunSettings
from harness.suite.data_source import locate_source
from harness.suite.models import Suite, list_sources
from harness.verdicts.advice import show_time
from harness.verdicts.doubts import find_doubts
from harness.verdicts.thresholds import Blessed, find_changes
from harness.worker.messages import Progress

PAIRS = ab.ENOUGH_PAIRS
_SHOWN = 3  # values named in one line
_FOLDER = "precision-harness-"  # and the id of the process that opened the commit
_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")


@dataclass(frozen=True)
class Repository:
    """A repository's folder, and in it the one (``place``) that suites are run from."""

    top: Path
    place: Path

    def relate(self, path: Path) -> Path | None:
        """``path`` relative to ``top``; None for one that is not in the repository."""
        for whole in (Path(os.path.normpath(path)), path.resolve()):
            if whole.is_relative_to(self.top):
                return whole.relative_to(self.top)
        return None


@dataclass(frozen=True)
class Task:
    """A suspicious record and what it was judged by; ``environment`` is that of its run."""

    suite: Suite
    record: Record
    blessed: Blessed
    environment: Mapping[str, Any]
    allow: tuple[str, ...]


def expect_seconds(record: Record) -> float:
    """What all pairs take, by what the record's own processes took; without the start of Python."""
    values = [record.values[name.partition(".")[2]] for name in _list_suspicious(record)]
    processes = max((one.n or 1 for one in values if one.stderr is not None), default=1)
    return record.seconds.get("total", 0.0) / processes * 2 * PAIRS


def _list_suspicious(record: Record) -> list[str]:
    return [one.metric for one in record.verdicts if one.suspicious]


def announce(record: Record, commit: str) -> str:
    """What will be measured, why and how long it takes."""
    names = _list_suspicious(record)
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    took = show_time(expect_seconds(record))
    return (
        f"{record.cell.id}: suspicious: {shown}: measuring {commit[:10]} and this code in turn, "
        f"{2 * PAIRS} processes, {took} and the start of Python for each"
    )


def measure_same_night(
    task: Task, settings: RunSettings, output: Path, on_progress: Callable[[Progress], None]
) -> tuple[SameNight, bool]:
    """What the pairs show, and whether Ctrl-C ended them; ``output`` gets every measurement."""
    samples: list[ab.Sample] = []

    def follow(sample: ab.Sample) -> None:
        samples.append(sample)
        on_progress(Progress(len(samples), 2 * PAIRS, "processes"))

    lacking, interrupted = "", False
    try:
        _measure_pairs(task, settings, output, follow)
    except KeyboardInterrupt:
        lacking, interrupted = "interrupted", True
    except (InputError, UnavailableError, ab.SideError, OSError) as error:
        lacking = _shorten(str(error))
    inside = output.is_relative_to(settings.root)
    file = str(output.relative_to(settings.root) if inside else output) if samples else ""
    return _describe(task, samples, lacking, file), interrupted


def _measure_pairs(
    task: Task, settings: RunSettings, output: Path, follow: Callable[[ab.Sample], None]
) -> None:
    suite, record, commit = task.suite, task.record, task.blessed.commit
    with open_commit(settings.root, commit) as (repository, tree):
        inside = repository.relate(suite.path)
        if inside is not None and not (tree / inside).exists():
            raise UnavailableError(f"{commit[:10]} has no {inside.as_posix()}")
        link_untracked(suite, repository, tree)
        file = suite.path if inside is None else os.path.relpath(inside, repository.place)
        paths = _list_python_path(repository, tree)

        def make_side(name: Literal["A", "B"], top: Path) -> ab.Side:
            path = tuple(str(top / one) for one in paths)
            place = str(top / repository.place)
            return ab.Side(name, record.cell.precision, sys.executable, place, path)

        plan = ab.Plan(
            suite=Path(file),
            model=record.cell.model,
            measurement=record.measurement,
            device=record.cell.device,
            sides=(make_side("A", tree), make_side("B", repository.top)),
            pairs=PAIRS,
            timeout_s=settings.cell_timeout_s,
        )
        ab.run_plan(plan, output, follow)


def _describe(task: Task, samples: Sequence[ab.Sample], lacking: str, file: str) -> SameNight:
    """No pairs where the commit, whose suite is its own, asks another question than was blessed."""
    commit, changed = task.blessed.commit, ""
    lacking = lacking.replace("side A", commit[:10]).replace("side B", "this code")
    first = next((one for one in samples if one.side == "A"), None)
    if first is not None:
        facts = {**task.environment, "libraries": first.libraries, "harness": first.harness}
        found = find_changes(task.blessed, facts, first.record, task.allow)
        changed = ", ".join(dict.fromkeys(one.short for one in found.suspects))
        if found.refused:
            refused = ", ".join(map(str, found.refused))
            lacking = f"{commit[:10]} asks another question than was blessed: {refused}"
            return SameNight(commit=commit, lacking=lacking, file=file)
    pairs = ab.list_pairs(samples)
    doubts: dict[Outcome, str] = {
        "FAIL": _join_doubts([find_doubts(b, a) for a, b in pairs]),
        "PASS": _join_doubts([find_doubts(a, b) for a, b in pairs]),
    }
    invalid = "; ".join(ab.list_concerns([one for one in samples if not one.record.usable]))
    return SameNight(
        commit=commit,
        pairs={name: tuple(numbers) for name, numbers in ab.pair_values(pairs).items()},
        doubts={outcome: doubt for outcome, doubt in doubts.items() if doubt},
        changed=changed,
        lacking=lacking or invalid,
        file=file,
    )


@contextlib.contextmanager
def open_commit(root: Path, commit: str) -> Iterator[tuple[Repository, Path]]:
    """The repository that ``root`` is in, and a temporary folder with its files at ``commit``.

    The folder is gone afterwards, after Ctrl-C and SIGTERM too; what a killed process has left is
    removed by the next one. Raises `UnavailableError`, with what to do, where that commit
    cannot be had, `InputError` where there is no git.
    """
    top = Path(_ask_git(root, "rev-parse", "--show-toplevel"))
    repository = Repository(top, Path(_ask_git(root, "rev-parse", "--show-prefix")))
    if run_git(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        what = "is not in this repository: fetch the branch that it is on"
        if _ask_git(root, "rev-parse", "--is-shallow-repository") == "true":
            what = "is not in this shallow clone: `git fetch --unshallow` fetches it; "
            what += "in a GitHub workflow, `fetch-depth: 0` of actions/checkout"
        raise UnavailableError(f"commit {commit[:10]} {what}")
    _remove_left_behind(root)
    prefix = f"{_FOLDER}{os.getpid()}-"
    with _end_at_sigterm(), tempfile.TemporaryDirectory(prefix=prefix) as folder:
        tree = Path(folder) / commit[:10]
        try:
            _ask_git(root, *_NO_HOOKS, "worktree", "add", "--detach", str(tree), commit)
            yield repository, tree
        finally:
            run_git(root, "worktree", "remove", "--force", str(tree))


@contextlib.contextmanager
def _end_at_sigterm() -> Iterator[None]:
    """SIGTERM ends what is inside as Ctrl-C does. Only a main thread can be told so."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _remove_left_behind(root: Path) -> None:
    """Files and registrations of commits that processes opened which are gone."""
    for line in _ask_git(root, "worktree", "list", "--porcelain").splitlines():
        tree = Path(line.removeprefix("worktree "))
        owner = tree.parent.name.removeprefix(_FOLDER).partition("-")[0]
        is_own = line.startswith("worktree ") and tree.parent.name.startswith(_FOLDER)
        if is_own and owner.isdigit() and not psutil.pid_exists(int(owner)):
            run_git(root, "worktree", "remove", "--force", "--force", str(tree))
            shutil.rmtree(tree.parent, ignore_errors=True)


def link_untracked(suite: Suite, repository: Repository, tree: Path) -> None:
    """Link into ``tree`` the suite's weights and data that git does not keep, such as a model."""
    for source in list_sources(suite):
        kind, _ = locate_source(source, suite.folder)
        inside = repository.relate(suite.folder / Path(source).expanduser())
        if kind == "local" and inside is not None and not os.path.lexists(tree / inside):
            (tree / inside).parent.mkdir(parents=True, exist_ok=True)
            (tree / inside).symlink_to(repository.top / inside)


def _list_python_path(repository: Repository, tree: Path) -> list[Path]:
    """Where this Python finds code of the repository, as far as the commit has such a folder."""
    found = [repository.top / repository.place, *(Path(entry) for entry in sys.path if entry)]
    inside = dict.fromkeys(map(repository.relate, found))
    return [path for path in inside if path is not None and (tree / path).is_dir()]


def _shorten(message: str) -> str:
    """A side's name and the last line of its traceback; any other message whole."""
    before, traceback, rest = message.partition("Traceback (most recent call last):")
    return f"{before}{rest.splitlines()[-1]}" if traceback else message


def _join_doubts(found: Sequence[Sequence[str]]) -> str:
    """The first doubt, and how many pairs have one."""
    doubtful = [doubts for doubts in found if doubts]
    return f"{doubtful[0][0]} (in {len(doubtful)} of {len(found)} pairs)" if doubtful else ""


def _ask_git(root: Path, *arguments: str) -> str:
    done = run_git(root, *arguments)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        command = arguments[2] if arguments[0] == "-c" else arguments[0]
        raise UnavailableError(f"git {command}: {lines[-1]}")
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")
