"""Cells' processes that die, hang or are left behind: real signals to real processes."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.records.run_file import Run, read_run
from tests.support.cells_in_process import write_checkpoint
from tests.support.misbehaving_models import TRIGGER, PidPipe, write_misbehaving
from tests.support.projects import Outcome, Project, find_records, finish, list_session

MEASURE = f"""measure:
  perplexity: {{text: ../text.txt, context: {TRIGGER}}}
  footprint:
"""


pytestmark = pytest.mark.e2e
_PATIENCE_S = 240  # for what has to end; nothing is judged by it


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "calm", num_hidden_layers=1)


def make_project(folder: Path, calm: Path, *behaviours: str) -> tuple[Project, PidPipe]:
    """A suite with a calm model, then the misbehaving ones, then a calm one again; no reference."""
    project = Project(folder)
    pipe = PidPipe(folder / "pids")
    names = ["first", *behaviours, "last"]
    for behaviour in behaviours:
        write_misbehaving(folder / behaviour, calm, behaviour.partition("-")[0], folder / "pids")  # type: ignore[arg-type]
    for name in ("first", "last"):
        (folder / name).symlink_to(calm)
    entries = [f"  - {{name: {name}, source: ../{name}" for name in names]
    models = "".join(
        e + (", trust_remote_code: true}\n" if name in behaviours else "}\n")
        for e, name in zip(entries, names, strict=True)
    )
    project.write("suites/s.yaml", f"name: s\nmodels:\n{models}precisions: [fp32]\n{MEASURE}")
    return project, pipe


def find_fork_server(pytest_pid: int) -> psutil.Process:
    children = psutil.Process(pytest_pid).children()
    return next(c for c in children if any("forkserver" in part for part in c.cmdline()))


@pytest.fixture(scope="module")
def deaths(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    """One run in which cells die in every way, started from a script of the user's own."""
    folder = tmp_path_factory.mktemp("deaths")
    project, pipe = make_project(folder, calm, "hang", "segfault", "throw", "leave", "hang-too")
    project.write(
        "main.py",
        "import os\nopen('imported', 'a').write(f'{os.getpid()} {__name__}\\n')\n"
        "if __name__ == '__main__':\n"
        "    import sys, pytest\n    sys.exit(pytest.main(sys.argv[1:]))\n",
    )
    process = project.start("-v", command=("main.py",))
    worker = pipe.wait()
    server = find_fork_server(process.pid)
    facts = {
        "parents": [process.pid, server.pid],
        "worker's parents": [p.pid for p in psutil.Process(worker).parents()[:2]][::-1],
        "server threads": os.listdir(f"/proc/{server.pid}/task"),
        "server maps": Path(f"/proc/{server.pid}/maps").read_text(),
        "server files": [os.readlink(p) for p in Path(f"/proc/{server.pid}/fd").iterdir()],
    }
    os.kill(worker, signal.SIGKILL)
    pipe.wait()
    server.kill()  # while another model hangs
    outcome = finish(process)
    pipe.close()
    return Deaths(outcome, project.last_run("s"), process.pid, facts, project)


@dataclass(frozen=True)
class Deaths:
    outcome: Outcome
    run: Run
    pid: int
    facts: dict[str, Any]
    project: Project


def test_what_dies_fails_and_everything_else_is_measured(deaths: Deaths) -> None:
    """The dead cell's next measurement included, in a fresh process."""
    died = {"hang", "segfault", "throw", "leave", "hang-too"}
    models = ("first", "hang", "segfault", "throw", "leave", "hang-too", "last")
    assert deaths.outcome.results == {
        f"suites/s.yaml::{model}[fp32]::{name}": (
            "FAILED" if model in died and name == "perplexity" else "PASSED"
        )
        for model in models
        for name in ("perplexity", "footprint")
    }, deaths.outcome.text
    assert deaths.outcome.code == pytest.ExitCode.TESTS_FAILED
    assert not deaths.outcome.shows_traceback, deaths.outcome.text


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "hang",
            "the cell's process was killed by SIGKILL (by someone, or by the kernel for lack of "
            "memory) while measuring perplexity",
        ),
        ("segfault", "the cell's process was killed by SIGSEGV while measuring perplexity"),
        ("throw", "RuntimeError: the sky is falling"),
        ("leave", "the cell's process exited with code 7 while measuring perplexity"),
        (
            "hang-too",
            "the cell's process exited with code 255, or ended with the fork server that had "
            "started it, while measuring perplexity",
        ),
    ],
)
def test_a_death_is_a_failed_record_with_its_reason(
    deaths: Deaths, model: str, reason: str
) -> None:
    record = find_records(deaths.run)[f"{model}[fp32]::perplexity"]
    assert record.validity.status == "failed"
    assert record.validity.reasons == (reason,)
    shown = deaths.outcome.failures[f"{model}[fp32]::perplexity"]
    assert shown.startswith(f"{model}[fp32] perplexity failed: {reason}\nRun file: results/runs/s/")
    if model == "segfault":
        assert "Fatal Python error: Segmentation fault" in record.traceback
        assert "misbehaving.py" in record.traceback
    if model == "throw":
        assert "in throw" in record.traceback


def test_a_run_with_dead_cells_is_not_interrupted_and_holds_every_record(deaths: Deaths) -> None:
    assert deaths.run.run.interrupted is False
    assert len(deaths.run.records) == 14
    assert not list((deaths.project.folder / "results/runs/s").glob("*journal*"))


def test_only_the_fork_server_s_children_measure_and_none_imports_the_user_s_script(
    deaths: Deaths,
) -> None:
    assert deaths.facts["worker's parents"] == deaths.facts["parents"]
    imported = (deaths.project.folder / "imported").read_text()
    assert imported == f"{deaths.pid} __main__\n"


def test_the_fork_server_has_one_thread_and_has_not_touched_cuda(deaths: Deaths) -> None:
    """Threads and CUDA contexts do not survive a fork."""
    assert len(deaths.facts["server threads"]) == 1
    assert "libtorch" in str(deaths.facts["server maps"]), "it has torch preloaded"
    assert "libcuda.so" not in str(deaths.facts["server maps"])
    assert not any("/dev/nvidia" in str(name) for name in deaths.facts["server files"])


@pytest.fixture(scope="module")
def cut_off(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> CutOff:
    """Two runs of one suite: pytest is killed in the first, the second is ended by Ctrl-C."""
    project, pipe = make_project(tmp_path_factory.mktemp("cut"), calm, "hang")
    process = project.start()
    pipe.wait()
    killed = list_session(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left_by_kill = psutil.wait_procs(killed, timeout=_PATIENCE_S)[1]
    journals = list((project.folder / "results/runs/s").glob("*.journal.jsonl"))

    process = project.start("-v")
    pipe.wait()
    interrupted = list_session(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    outcome = finish(process)
    left_by_ctrl_c = psutil.wait_procs(interrupted, timeout=_PATIENCE_S)[1]
    pipe.close()
    assert min(len(killed), len(interrupted)) >= 3  # pytest, fork server, cell
    return CutOff(project, left_by_kill, journals, left_by_ctrl_c, outcome)


@dataclass(frozen=True)
class CutOff:
    project: Project
    left_by_kill: list[psutil.Process]
    journals: list[Path]
    left_by_ctrl_c: list[psutil.Process]
    outcome: Outcome

    @property
    def runs(self) -> list[Run]:
        return [read_run(path) for path in self.project.run_paths("s")]


def test_killing_pytest_leaves_no_process(cut_off: CutOff) -> None:
    """Although the cell hangs and will never see that its pipe is closed."""
    assert cut_off.left_by_kill == []


def test_the_next_run_recovers_what_a_killed_one_had_measured(cut_off: CutOff) -> None:
    (journal,) = cut_off.journals
    path = cut_off.project.run_paths("s")[0]
    assert path.name == journal.name.replace(".journal.jsonl", ".json")
    assert f"recovered from a run that was cut off: results/runs/s/{path.name}" in (
        cut_off.outcome.text
    )
    run = cut_off.runs[0]
    assert run.run.interrupted is True
    assert set(find_records(run)) == {"first[fp32]::perplexity", "first[fp32]::footprint"}
    assert [record.validity.status for record in run.records] == ["ok", "ok"]


def test_a_cell_that_takes_too_long_fails(calm: Path, tmp_path: Path) -> None:
    """In a millisecond no machine loads a model. tests/worker/test_unfinished.py goes on."""
    project, pipe = make_project(tmp_path, calm)
    outcome = project.run("-v", "--cell-timeout", "0.001")
    pipe.close()
    late = "timed out after 0.001 s while loading the model (--cell-timeout)"
    records = project.last_run("s").records
    assert [record.validity.reasons for record in records] == [(late,)] * 4
    assert set(outcome.results.values()) == {"FAILED"}
    assert len(outcome.results) == 4


def test_ctrl_c_leaves_no_process_and_keeps_what_was_measured(cut_off: CutOff) -> None:
    outcome = cut_off.outcome
    assert outcome.code == pytest.ExitCode.INTERRUPTED, outcome.text
    assert cut_off.left_by_ctrl_c == []
    assert len(cut_off.runs) == 2
    run = cut_off.runs[1]
    assert run.run.interrupted is True
    assert list(find_records(run)) == ["first[fp32]::perplexity", "first[fp32]::footprint"]
    assert f"run file: results/runs/s/{cut_off.project.run_paths('s')[1].name}" in outcome.text
    assert not list((cut_off.project.folder / "results/runs/s").glob("*journal*"))
    assert "Traceback (most recent" not in outcome.text
