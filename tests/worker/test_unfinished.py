"""Measurements that end early: what was finished is kept, and marked as not being all.

Real processes, really killed; models whose own code throws or hangs at a prompt of 23 tokens.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import harness.run.executor
import harness.run.make_record
import harness.run.process
from harness.errors import InputError
from harness.records.record import Record, Validity
from harness.run.executor import Interrupted
from harness.run.machine import Machine, inspect_machine
from harness.run.process import CellProcess
from harness.timing import workloads
from tests.support.cells_in_process import write_checkpoint, write_llama
from tests.support.executors import Watched
from tests.support.misbehaving_models import TRIGGER, PidPipe, write_misbehaving
from tests.support.projects import Project, find_records, finish

TWO_PROMPTS = f"prompt_tokens: [8, {TRIGGER - 1}]"
SUITE = """name: s
reference: fp32
models: [{{name: m, source: ../m, trust_remote_code: true}}]
precisions: [fp32]
measure:
  throughput:
    {prompts}
    processes: {processes}
    new_tokens: 3
    min_rounds: 3
    min_time_s: 0
    warmup_s: 0
    roofline: false
"""


pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("unfinished") / "model")


@pytest.fixture(scope="module")
def machine() -> Machine:
    return inspect_machine("cpu", Path(__file__).parents[2], online=False)


def signalling(machine: Machine, number: int, **given: Any) -> Watched:
    """An executor whose cell gets a signal as its third workload begins."""

    def act(watched: Watched, done: int) -> None:
        if done == 2:
            os.kill(watched.pids[-1], number)

    return Watched(machine, act, **given)


def check_two_are_kept(record: Record, reason: str) -> None:
    assert record.validity.status == "failed"
    assert not record.usable
    assert record.validity.reasons[0] == (
        f"{reason} (at batch 64; what was finished before is kept)"
    )
    assert list(record.samples) == ["1", "2"]
    for batch in (1, 2):
        value = record.values[f"decode_tokens_per_s[{batch}]"]
        assert value.value is not None
        assert value.n == 3
    assert "decode_tokens_per_s[64]" not in record.values
    assert record.values["load_s"].value is not None
    assert record.protocol["batch_sizes"] == [1, 2, 64]
    assert len(record.telemetry) == 1


def test_a_process_that_is_killed_leaves_what_it_had_finished(
    checkpoint: Path, machine: Machine
) -> None:
    killed = signalling(machine, signal.SIGKILL)
    record = killed.measure_speed(checkpoint, batch_sizes=(1, 2, 64))
    check_two_are_kept(
        record,
        "the cell's process was killed by SIGKILL (by someone, or by the kernel for lack of "
        "memory) while measuring throughput",
    )


def test_so_does_one_that_hangs(
    checkpoint: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour passes when its process is stopped, on the clock of its time limit."""
    late_s = 0

    def stop(watched: Watched, done: int) -> None:
        nonlocal late_s
        if done == 2:
            os.kill(watched.pids[-1], signal.SIGSTOP)
            late_s += 3600

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late_s)
    monkeypatch.setattr(harness.run.process, "time", clock)
    hanging = Watched(machine, stop, timeout_s=3600)
    record = hanging.measure_speed(checkpoint, batch_sizes=(1, 2, 64))
    check_two_are_kept(record, "timed out after 3600 s while measuring throughput (--cell-timeout)")
    assert hanging.measure_speed(checkpoint).usable, "a fresh process has its own time"


def test_so_does_one_that_raises(tmp_path: Path, machine: Machine) -> None:
    calm = write_checkpoint(tmp_path / "calm")
    throwing = write_misbehaving(tmp_path / "throwing", calm, "throw", tmp_path / "pids")
    given = {"prompt_tokens": (8, TRIGGER - 1), "batch_sizes": (1, 2)}
    record = Watched(machine).measure_speed(throwing, remote=True, **given)
    assert record.validity.status == "failed"
    assert record.validity.reasons[0] == (
        "RuntimeError: the sky is falling (at batch 1x23; what was finished before is kept)"
    )
    assert "in throw" in record.traceback
    assert list(record.samples) == ["1x8", "2x8"]


def test_so_does_a_mistake_without_isolation(
    checkpoint: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workloads.make_prompt

    def make(model: Any, batch: int, *rest: Any) -> Any:
        if batch == 64:
            raise InputError("no such thing")
        return real(model, batch, *rest)

    monkeypatch.setattr(workloads, "make_prompt", make)
    here = Watched(machine, isolate=False)
    check_two_are_kept(here.measure_speed(checkpoint, batch_sizes=(1, 2, 64)), "no such thing")
    monkeypatch.undo()
    assert here.measure_speed(checkpoint).usable, "nothing is left of the measurement before"
    several = here.measure_speed(checkpoint, processes=2)
    assert several.validity.status == "failed"
    assert "`processes` does not work with --no-isolate" in several.validity.reasons[0]


def test_numbers_that_are_invalid_do_not_become_sound_by_a_failure(
    checkpoint: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = Validity(status="invalid", reasons=("hot",))
    monkeypatch.setattr(harness.run.make_record, "judge_telemetry", lambda _: hot)
    killed = signalling(machine, signal.SIGKILL)
    record = killed.measure_speed(checkpoint, batch_sizes=(1, 2, 64))
    assert record.validity.status == "invalid"
    assert "was killed by SIGKILL" in record.validity.reasons[0]
    assert record.validity.reasons[-1] == "hot"


def test_a_process_that_dies_halfway_counts_with_what_it_finished(
    checkpoint: Path, machine: Machine
) -> None:
    """The second of three; the interval at batch 1 is over three, at batch 2 over two."""

    def kill_the_second(watched: Watched, done: int) -> None:
        if watched.process == 2 and done == 1:
            os.kill(watched.pids[1], signal.SIGKILL)

    killed = Watched(machine, kill_the_second)
    record = killed.measure_speed(checkpoint, batch_sizes=(1, 2), processes=3)
    assert record.validity.status == "flagged"
    assert "1 of 3 processes gave not all numbers" in record.validity.reasons
    assert record.samples["1"]["rounds_per_process"] == [3, 3, 3]
    assert record.samples["2"]["rounds_per_process"] == [3, 0, 3]
    assert record.values["decode_tokens_per_s[1]"].n == 3
    assert record.values["decode_tokens_per_s[2]"].n == 2


def test_a_process_that_dies_while_loading_leaves_the_others(
    checkpoint: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[CellProcess] = []

    def start(*arguments: Any) -> CellProcess:
        started.append(CellProcess(*arguments))
        if len(started) == 2:
            os.kill(started[1].pid or 0, signal.SIGKILL)
        return started[-1]

    monkeypatch.setattr(harness.run.executor, "CellProcess", start)
    watched = Watched(machine)
    record = watched.measure_speed(checkpoint, processes=3)
    assert record.validity.status == "flagged"
    assert "1 of 3 processes gave no numbers" in record.validity.reasons
    assert any("while loading the model" in reason for reason in record.validity.reasons)
    assert record.samples["1"]["rounds_per_process"] == [3, 3]
    assert watched.measure_speed(checkpoint).usable, "what has loaded once is loaded again"


def interrupting(machine: Machine, process: int, done: int) -> Watched:
    """An executor that gets Ctrl-C when its ``process``-th process has ``done`` workloads."""

    def act(watched: Watched, finished: int) -> None:
        if watched.process == process and finished == done:
            raise KeyboardInterrupt

    return Watched(machine, act)


@pytest.mark.parametrize(("done", "rounds"), [(0, [[3, 3], [3, 3]]), (1, [[3, 3, 3], [3, 3, 0]])])
def test_ctrl_c_keeps_the_processes_that_were_finished(
    checkpoint: Path, machine: Machine, done: int, rounds: list[list[int]]
) -> None:
    """And the finished workloads of the one that was not."""
    with pytest.raises(Interrupted) as stopped:
        interrupting(machine, 3, done).measure_speed(checkpoint, batch_sizes=(1, 2), processes=5)
    record = stopped.value.record
    assert record.validity.status == "flagged"
    assert "interrupted after 2 of 5 processes" in record.validity.reasons
    assert [record.samples[batch]["rounds_per_process"] for batch in ("1", "2")] == rounds
    assert record.values["decode_tokens_per_s[1]"].interval is not None


def test_ctrl_c_after_one_process_leaves_no_interval(checkpoint: Path, machine: Machine) -> None:
    with pytest.raises(Interrupted) as stopped:
        interrupting(machine, 2, 0).measure_speed(checkpoint, processes=3)
    record = stopped.value.record
    assert record.validity.status == "failed"
    assert record.validity.reasons[-1] == (
        "interrupted after 1 of 3 processes, and an interval needs 2 that do"
    )
    assert record.values["decode_tokens_per_s[1]"].value is not None


@pytest.mark.parametrize("processes", [1, 3])
def test_ctrl_c_before_anything_was_measured_is_just_that(
    checkpoint: Path, machine: Machine, processes: int
) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped:
        interrupting(machine, 1, 0).measure_speed(checkpoint, processes=processes)
    assert not isinstance(stopped.value, Interrupted)


def make_project(folder: Path, behaviour: Any, processes: int) -> Project:
    project = Project(folder)
    calm = write_checkpoint(folder / "calm", num_hidden_layers=1)
    write_misbehaving(folder / "m", calm, behaviour, folder / "pids")
    project.write("suites/s.yaml", SUITE.format(prompts=TWO_PROMPTS, processes=processes))
    return project


def test_the_item_fails_and_the_numbers_are_in_the_file_and_in_the_table(tmp_path: Path) -> None:
    project = make_project(tmp_path, "throw", 1)
    outcome = project.run()
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    shown = outcome.failures["m[fp32]::throughput"]
    assert "failed: RuntimeError: the sky is falling (at batch 1x23; what was finished" in shown
    record = find_records(project.last_run("s"))["m[fp32]::throughput"]
    speed = record.values["decode_tokens_per_s[1x8]"].value
    assert f"{speed:,.1f}!" in outcome.text
    assert "! finished before the measurement failed (throughput of m[fp32])" in outcome.text
    assert "FAILED" in next(
        line for line in outcome.text.splitlines() if line.startswith("fp32 ") and "!" in line
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_writes_what_was_finished_into_the_run_file(tmp_path: Path, processes: int) -> None:
    project = make_project(tmp_path, "hang", processes)
    pipe = PidPipe(tmp_path / "pids")
    process = project.start("-v")
    pipe.wait()
    os.killpg(process.pid, signal.SIGINT)
    outcome = finish(process)
    pipe.close()
    assert outcome.code == pytest.ExitCode.INTERRUPTED, outcome.text
    assert "Traceback (most recent" not in outcome.text
    run = project.last_run("s")
    assert run.run.interrupted is True
    record = find_records(run)["m[fp32]::throughput"]
    assert record.validity.status == "failed"
    assert any("interrupted (at batch 1x23; " in reason for reason in record.validity.reasons)
    assert list(record.samples) == ["1x8"]
    assert not list((project.folder / "results/runs/s").glob("*journal*"))
