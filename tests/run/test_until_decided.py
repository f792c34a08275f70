"""until_decided: which processes are measured, in which order, when that ends, and what is said.

Processes are scripted here: their speeds, how long each takes, and when one fails. What is open is
found by the run's own limits; real processes are in tests/plugin/test_until_decided.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.records.record import Record, Validity, Verdict
from harness.run.repeats import merge_repeats
from harness.run.until_decided import Change, ExtraRounds, Key
from harness.suite.cells import Cell, Selection, build_cells
from harness.suite.models import MeasurementSpec
from harness.suite.read import load_suite
from harness.verdicts.looks import keep_verdicts
from harness.verdicts.pairing import complete_record
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
RATE = f"throughput.{SPEED}"
WAVE = (-1, 1, 0, 1, -1, 0)  # hundredths that speeds differ by, process after process


class Machine:
    """Processes of 10 s; all speeds are about 100."""

    def __init__(
        self, folder: Path, limit: float, more: str = "", asked: int = 3, **given: object
    ) -> None:
        path = folder / "suites/s.yaml"
        path.parent.mkdir(parents=True)
        text = SUITE.replace("LIMIT", str(limit)).replace("processes: 3", f"processes: {asked}")
        path.write_text(text + (f"  - {more}\n" if more else ""), encoding="utf-8")
        self.suite = load_suite(path, folder)
        self.now = 0.0
        self.order: list[str] = []
        self.notices: list[str] = []
        # cell, number of the process
        self.fails: set[tuple[str, int]] = set()
        self.flagged: set[tuple[str, int]] = set()
        self.jumps: dict[tuple[str, int], float] = {}
        self.records: dict[Key, Record] = {}
        self.judged: list[str] = []
        cells = build_cells(self.suite, Selection())
        planned = {(c.id, spec.name): (c, spec) for c in cells for spec in c.measurements}
        self.rounds = ExtraRounds(
            planned, cells[0].precision, self.records, self.judge, self.measure,
            self.records.__setitem__,
            on_notice=self.notices.append, clock=lambda: self.now, **{"at_most_s": None, **given},
        )  # fmt: skip
        for key, (cell, _) in planned.items():
            parts = self.rounds.processes.setdefault(key, [])
            parts += [self.run_process(cell, number) for number in range(asked)]
            self.records[key] = merge_repeats(parts)
        self.order.clear()

    def run_process(self, cell: Cell, number: int) -> Record:
        self.order.append(cell.precision.name)
        self.now += 10
        name = cell.precision.name
        if (name, number) in self.fails:
            failed = Validity(status="failed", reasons=(f"process {number} was killed",))
            return make_record("throughput", name, status="failed", validity=failed)
        speed = self.jumps.get((name, number), 100.0)
        # The sides of one round differ, too: what they have in common would not matter.
        step = number + (name != "fp32")
        speed *= 1 + WAVE[step % len(WAVE)] / 100
        values = {SPEED: Value(value=speed, unit="tokens/s", better="higher")}
        seconds = {"total": 10.0}
        record = make_record("throughput", name, values=values, seconds=seconds)
        if (name, number) not in self.flagged:
            return record
        busy = Validity(status="flagged", reasons=(f"other processes used {number} cores",))
        return record.model_copy(update={"validity": busy})

    def measure(self, cell: Cell, spec: MeasurementSpec, processes: list[Record]) -> None:
        assert spec.options.repeats == len(processes) + 1
        processes.append(self.run_process(cell, len(processes)))

    def judge(self, cell: Cell, spec: MeasurementSpec, change: Change) -> Record:
        own, reference = (self.records[name, spec.name] for name in (cell.id, "m[fp32]"))
        return keep_verdicts(complete_record(self.suite, change(own), change(reference)))

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
    assert said.endswith("; every limit on speeds is decided")


def test_a_verdict_by_thresholds_gets_no_processes(tmp_path: Path) -> None:
    """Nights are what it lacks."""
    machine = Machine(tmp_path, limit=0.5)
    judge = machine.judge

    def judge_by_threshold(cell: Cell, spec: MeasurementSpec, change: Change) -> Record:
        record = judge(cell, spec, change)
        is_open = Verdict(
            verdict="INCONCLUSIVE", metric=RATE, bound="", value=100.0, text="",
            against="threshold",
        )  # fmt: skip
        return record.model_copy(update={"verdicts": (*record.verdicts, is_open)})

    machine.rounds.judge = judge_by_threshold
    machine.rounds.take()
    assert machine.order == []
    assert machine.rounds.describe().endswith("; every limit on speeds is decided")


def test_what_is_decided_stays_so_whatever_comes_after_it(tmp_path: Path) -> None:
    """99 tokens/s fail a limit of 110 clearly; later processes reach 200."""
    machine = Machine(
        tmp_path, limit=0.999, more=f'{{precision: bf16, metric: "{RATE}", min: 110}}'
    )
    machine.jumps = {("bf16", number): 200.0 for number in range(3, 16)}
    machine.rounds.take()
    key = ("m[bf16]", "throughput")
    record = machine.judge(*machine.rounds.planned[key], lambda record: record)
    found = {verdict.metric: verdict for verdict in record.verdicts}
    speed = record.values[SPEED].value
    assert speed is not None
    assert speed > 110
    assert found[RATE].verdict == "FAIL"
    assert "process 3 of at most 16" in found[RATE].text
    assert len(machine.order) > 2


def test_no_flag_of_an_extra_process_reaches_what_was_asked_for(tmp_path: Path) -> None:
    """The reference gets more because bf16 is open; nf4 fails its own limit by the first three."""
    clear = '{precision: nf4, metric: "throughput.decode_speedup[1]", min: 1.3}'
    machine = Machine(tmp_path, limit=0.999, more=clear)
    machine.flagged = {("fp32", 4)}
    machine.fails = {("bf16", 5)}
    machine.rounds.take()
    assert machine.verdict("nf4") == "FAIL"
    for name, number in (("fp32", 4), ("bf16", 5)):
        record = machine.records[f"m[{name}]", "throughput"]
        assert record.validity.status == "ok"
        assert len(record.samples["left_out"]) == 1
        [left_out] = record.samples["left_out"]
        assert str(number) in left_out["reasons"][0]
        assert record.values[SPEED].n == 15
    looks = machine.records["m[bf16]", "throughput"].looks
    assert looks is not None
    assert looks.at == tuple(range(3, 16))


def test_a_value_with_no_look_of_its_own_is_not_judged_again(tmp_path: Path) -> None:
    """More of the reference moves the ratio of nf4, which is open and whose processes all fail."""
    also = '{precision: nf4, metric: "throughput.decode_speedup[1]", min: 0.999}'
    machine = Machine(tmp_path, limit=0.999, more=also)
    machine.fails = {("nf4", number) for number in range(3, 16)}
    machine.jumps = {("fp32", number): 50.0 for number in range(3, 16)}
    key = ("m[nf4]", "throughput")
    machine.rounds.take()
    assert machine.order.count("nf4") == 2
    assert machine.verdict("nf4") == "INCONCLUSIVE"
    record = machine.records[key]
    assert record.looks is not None
    assert record.looks.at == (3,)
    assert record.validity.status == "ok"


@pytest.mark.parametrize("asked", [1, 2])
def test_the_first_look_has_three_processes(tmp_path: Path, asked: int) -> None:
    """Only of a cell that has a limit, and its reference."""
    machine = Machine(tmp_path, limit=0.5, asked=asked)
    machine.rounds.take()
    assert sorted(machine.order) == sorted(["fp32", "bf16"] * (3 - asked))
    assert machine.verdict() == "PASS"
    looks = {
        name: record.looks and record.looks.at for (name, _), record in machine.records.items()
    }
    assert looks == {"m[fp32]": (3,), "m[bf16]": (3,), "m[nf4]": ()}


def test_the_first_look_is_kept_before_anything_more_is_measured(tmp_path: Path) -> None:
    machine = Machine(tmp_path, limit=0.999)
    kept: list[tuple[int, Record]] = []

    def keep(key: Key, record: Record) -> None:
        kept.append((len(machine.order), record))
        machine.records[key] = record

    machine.rounds.keep = keep
    machine.rounds.take()
    first = {one.cell.id: one.looks for measured, one in kept if not measured}
    assert {name: looks and looks.at for name, looks in first.items()} == {
        "m[fp32]": (3,), "m[bf16]": (3,), "m[nf4]": (3,),
    }  # fmt: skip
    looks = first["m[bf16]"]
    assert looks is not None
    assert [verdict.verdict for verdict in looks.verdicts] == ["INCONCLUSIVE"]
    assert looks.first[SPEED].n == 3


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


def test_no_more_is_measured_of_what_fails_twice(tmp_path: Path) -> None:
    machine = Machine(tmp_path, limit=0.999)
    machine.fails = {("bf16", number) for number in range(4, 16)}
    machine.rounds.take()
    assert machine.order == ["fp32", "bf16", "bf16", "fp32", "fp32", "bf16"]
    record = machine.records["m[bf16]", "throughput"]
    assert record.looks is not None
    assert record.looks.at == (3, 4)
    assert record.validity.status == "ok"


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
    assert counts == {"m[fp32]": 4, "m[bf16]": 4, "m[nf4]": 3}
    assert machine.records["m[bf16]", "throughput"].values[SPEED].n == 5
    assert "3 more processes in 2 rounds, about 30 s" in machine.rounds.describe()
