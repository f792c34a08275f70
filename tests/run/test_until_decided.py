"""until_decided: which processes are measured, in which order, when that ends, and what is said.

Processes are scripted here: their speeds, how long each takes, and when one fails. What is open is
found by the run's own limits; real processes are in tests/plugin/test_until_decided.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.records.record import Record
from harness.run.repeats import merge_repeats
from harness.run.until_decided import Change, ExtraRounds, Key
from harness.suite.cells import Cell, Selection, build_cells
from harness.suite.models import MeasurementSpec
from harness.suite.read import load_suite
from harness.verdicts.pairing import complete_record
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Blessed, Threshold, Thresholds
from tests.support.records import Value, make_record

SUITE = """name: s
reference: fp32
models: [{name: m, source: "builtin:tiny-world"}]
precisions: [fp32, bf16, nf4]
measure: {throughput: {processes: 3}}
limits:
  - {precision: bf16, metric: "throughput.decode_speedup[1]", min: LIMIT}
"""
SPEED = "decode_tokens_per_s[1]"
WAVE = (-1, 1, 0, 1, -1, 0)  # hundredths that speeds differ by, process after process


class Machine:
    """Processes of 10 s; the speed of the reference is 100, that of bf16 ``share`` of it."""

    def __init__(
        self, folder: Path, limit: float, share: float = 1.0, step: int = 1, **given: object
    ) -> None:
        path = folder / "suites/s.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(SUITE.replace("LIMIT", str(limit)), encoding="utf-8")
        self.suite = load_suite(path, folder)
        self.share, self.step = share, step
        self.now = 0.0
        self.order: list[str] = []
        self.notices: list[str] = []
        self.fails: set[tuple[str, int]] = set()  # cell, number of the process
        self.records: dict[Key, Record] = {}
        self.judged: list[str] = []
        cells = build_cells(self.suite, Selection())
        planned = {(c.id, spec.name): (c, spec) for c in cells for spec in c.measurements}
        self.rounds = ExtraRounds(
            planned, cells[0].precision, self.records, self.judge, self.measure,
            on_notice=self.notices.append, clock=lambda: self.now, **{"at_most_s": None, **given},
        )  # fmt: skip
        for key, (cell, _) in planned.items():
            parts = self.rounds.processes.setdefault(key, [])
            parts += [self.run_process(cell, number) for number in range(3)]
            self.records[key] = merge_repeats(parts)
        self.order.clear()

    def run_process(self, cell: Cell, number: int) -> Record:
        self.order.append(cell.precision.name)
        self.now += 10
        if (cell.precision.name, number) in self.fails:
            return make_record("throughput", cell.precision.name, status="failed")
        speed = 100.0 if cell.precision.name == "fp32" else 100.0 * self.share
        # The sides of one round differ, too: what they have in common would not matter.
        step = number + (0 if cell.precision.name == "fp32" else self.step)
        speed *= 1 + WAVE[step % len(WAVE)] / 100
        values = {SPEED: Value(value=speed, unit="tokens/s", better="higher")}
        seconds = {"total": 10.0}
        return make_record("throughput", cell.precision.name, values=values, seconds=seconds)

    def measure(self, cell: Cell, spec: MeasurementSpec, processes: list[Record]) -> None:
        assert spec.options.repeats == len(processes) + 1
        processes.append(self.run_process(cell, len(processes)))
        key = (cell.id, spec.name)
        looks = self.records[key].looks
        assert looks is not None
        usable = sum(one.usable for one in processes)
        merged = merge_repeats(processes)
        self.records[key] = merged.model_copy(update={"looks": looks.again(usable)})

    def judge(self, cell: Cell, spec: MeasurementSpec, change: Change) -> Record:
        own, reference = (self.records[name, spec.name] for name in (cell.id, "m[fp32]"))
        return complete_record(self.suite, change(own), change(reference))

    def verdict(self, precision: str = "bf16") -> str:
        key = (f"m[{precision}]", "throughput")
        cell, spec = self.rounds.planned[key]
        [verdict] = self.judge(cell, spec, lambda record: record).verdicts
        return verdict.verdict


def test_only_what_is_open_gets_more_and_its_reference_takes_turns_with_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, limit=0.985)
    machine.rounds.take()
    assert machine.verdict() == "PASS"
    assert machine.order[:4] == ["fp32", "bf16", "bf16", "fp32"]
    assert set(machine.order) == {"fp32", "bf16"}
    taken = len(machine.order) // 2
    assert 1 < taken < 13
    record = machine.records["m[bf16]", "throughput"]
    assert record.looks is not None
    assert record.looks.at == tuple(range(3, 4 + taken))
    assert record.looks.most == 16
    assert record.values[SPEED].n == 3 + taken
    untouched = machine.records["m[nf4]", "throughput"].looks
    assert untouched is not None
    assert untouched.at == (3,)
    assert "open are m[bf16] throughput.decode_speedup[1]" in machine.notices[0]
    assert len(machine.notices) == taken
    said = machine.rounds.describe()
    assert f"{2 * taken} more processes in {taken} rounds" in said
    assert said.endswith("; every speed is decided")


def test_a_verdict_by_thresholds_takes_no_more_of_the_reference(tmp_path: Path) -> None:
    """5 % slower than blessed in one night, with a margin of 10 %: of another night 4.7 % more.

    A margin of 9 % is more than any number of processes can pass.
    """
    for margin, seen in ((10.0, "PASS"), (9.0, "INCONCLUSIVE")):
        machine = Machine(tmp_path / str(margin), limit=0.5, share=0.95, step=0)
        one = Threshold(
            value=100.0, unit="tokens/s", better="higher", margin=margin, spread=0.01, n=3,
            runs=[100.0],
        )  # fmt: skip
        blessed = Blessed(
            commit="c" * 40, run="r", runs=["r"], utcs=["2026-01-01T00:00:00+00:00"], when="2026",
            reason="x", items=None, facts={}, values={SPEED: one},
        )  # fmt: skip
        stored = Thresholds(suite="s", device="cpu", cells={"m[bf16]": {"throughput": blessed}})

        def judge(
            cell: Cell,
            spec: MeasurementSpec,
            change: Change,
            machine: Machine = machine,
            stored: Thresholds = stored,
        ) -> Record:
            record = change(machine.records[cell.id, spec.name])
            verdicts = judge_thresholds(stored, {}, record)
            return record.model_copy(update={"verdicts": verdicts})

        machine.judge = judge  # type: ignore[method-assign]
        machine.rounds.judge = judge
        machine.rounds.take()
        assert machine.verdict() == seen
        assert set(machine.order) == ({"bf16"} if seen == "PASS" else set())
    assert machine.rounds.describe().endswith(
        "still open: m[bf16] throughput.decode_tokens_per_s[1] after 3 processes "
        "(more of them do not decide it)"
    )


def test_what_one_look_decides_gets_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path, limit=0.8)
    machine.rounds.take()
    assert machine.order == []
    assert machine.notices == []
    assert machine.rounds.describe().startswith("--until-decided: 0 more processes in 0 rounds; ")


def test_a_truth_at_its_limit_stays_open_and_ends_at_the_most(tmp_path: Path) -> None:
    machine = Machine(tmp_path, limit=0.999)
    machine.rounds.take()
    assert machine.verdict() == "INCONCLUSIVE"
    assert len(machine.order) == 2 * 13
    said = machine.rounds.describe()
    assert "still open: m[bf16] throughput.decode_speedup[1] after 16 processes (about " in said


def test_no_round_begins_that_would_end_after_the_time(tmp_path: Path) -> None:
    """Rounds of 20 s: two in 59 s."""
    machine = Machine(tmp_path, limit=0.999, at_most_s=59.0)
    machine.rounds.take()
    assert machine.order == ["fp32", "bf16", "bf16", "fp32"]
    said = machine.rounds.describe()
    assert "4 more processes in 2 rounds, about 40 s, then the time was up (--at-most)" in said
    assert "after 5 processes (about " in said


def test_no_more_is_measured_of_what_fails(tmp_path: Path) -> None:
    machine = Machine(tmp_path, limit=0.999)
    machine.fails = {("bf16", 4)}
    machine.rounds.take()
    assert machine.order == ["fp32", "bf16", "bf16", "fp32"]
    record = machine.records["m[bf16]", "throughput"]
    assert record.looks is not None
    assert record.looks.at == (3, 4, 4)
    assert "1 of 5 processes gave no numbers" in record.validity.reasons


def test_ctrl_c_leaves_the_rounds_before_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, limit=0.999)
    real: Iterator[int] = itertools.count()
    measure = machine.rounds.measure

    def stop(cell: Cell, spec: MeasurementSpec, processes: list[Record]) -> None:
        if next(real) == 3:
            raise KeyboardInterrupt
        measure(cell, spec, processes)

    machine.rounds.measure = stop
    with pytest.raises(KeyboardInterrupt):
        machine.rounds.take()
    counts = {name: r.looks and r.looks.at[-1] for (name, _), r in machine.records.items()}
    assert counts == {"m[fp32]": 4, "m[bf16]": 5, "m[nf4]": 3}
    assert "3 more processes in 2 rounds, about 30 s" in machine.rounds.describe()
