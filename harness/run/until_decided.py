"""More processes for what is undecided: in rounds, the reference and all open cells in turn.

How the bounds allow for so many looks is in `harness.verdicts.looks`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeAlias

from harness.descriptions import with_repeats
from harness.records.record import Looks, Record, Verdict
from harness.records.values import find_spec
from harness.suite.cells import Cell
from harness.suite.models import MeasurementSpec, PrecisionSpec
from harness.verdicts.advice import show_time
from harness.verdicts.looks import most_processes, suppose_many

Key: TypeAlias = tuple[str, str]  # a cell's id and a measurement's name
Turn: TypeAlias = tuple[Cell, MeasurementSpec]
Change: TypeAlias = Callable[[Record], Record]
_SHOWN = 3  # values named in one sentence


@dataclass
class ExtraRounds:
    """Each round measures one more process of every cell that is open, and of its reference.

    Their order turns around from round to round, so that what drifts falls on all alike. It ends
    when nothing is open that more processes may decide, and when the time is up: no round begins
    that would probably end after ``at_most_s``.

    ``records`` are the run's. ``judge`` gives the record of a cell with its verdicts, after a
    change of what was measured. ``measure`` adds one process to those given and replaces the
    record by that of all, with one more look.
    """

    planned: Mapping[Key, Turn]
    reference: PrecisionSpec | None
    records: MutableMapping[Key, Record]
    judge: Callable[[Cell, MeasurementSpec, Change], Record]
    measure: Callable[[Cell, MeasurementSpec, list[Record]], None]
    at_most_s: float | None
    on_notice: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    processes: dict[Key, list[Record]] = field(default_factory=dict)
    _rounds: int = 0
    _measured: int = 0
    _spent_s: float = 0.0
    _is_time_up: bool = False

    @property
    def has_begun(self) -> bool:
        """Whether there has been a first look, at what the suite asks for."""
        return any(record.looks for record in self.records.values())

    def take(self) -> None:
        """Measure until nothing is open or the time is up. Ctrl-C ends it at any time."""
        for key, found in self.processes.items():
            usable = sum(one.usable for one in found)
            looks = Looks(at=(usable,), most=most_processes(len(found))) if usable else None
            self.records[key] = self.records[key].model_copy(update={"looks": looks})
        start = self.clock()
        while undecided := self._find_undecided():
            turns = self._order(undecided)
            needed = sum(self._take_s(cell, spec) for cell, spec in turns)
            if self.at_most_s is not None and self._spent_s + needed > self.at_most_s:
                self._is_time_up = True
                return
            self._rounds += 1
            names = [f"{cell.id} {v.metric}" for (cell, _), found in undecided for v in found]
            self.on_notice(f"--until-decided, round {self._rounds}: open are {_name(names)}")
            for turn in turns:
                self._measure_one(*turn)
                self._spent_s = self.clock() - start

    def describe(self) -> str:
        """What was done, what is still open, and what that would take."""
        left = [
            _say_what_it_takes(self.judge(*turn, _same), verdict, verdict in able)
            for key, turn in self.planned.items()
            if key in self.processes and self.records[key].looks
            for found, able in [self._sort_open(turn)]
            for verdict in found
        ]
        text = f"--until-decided: {self._measured} more processes in {self._rounds} rounds"
        text += f", {show_time(self._spent_s)}" if self._rounds else ""
        text += ", then the time was up (--at-most)" if self._is_time_up else ""
        return f"{text}; {f'still open: {_name(left)}' if left else 'every speed is decided'}"

    def _find_undecided(self) -> list[tuple[Turn, list[Verdict]]]:
        """Open verdicts that more processes may decide, of what can have more."""
        found = []
        for key, turn in self.planned.items():
            able = self._sort_open(turn)[1] if self._can_have_more(key) else []
            found += [(turn, able)] if able else []
        return found

    def _sort_open(self, turn: Turn) -> tuple[list[Verdict], list[Verdict]]:
        """All open verdicts on processes, and those that very many of them would decide."""
        cell, spec = turn
        found, decided = _list_open(self.judge(cell, spec, _same)), set()
        for shift in (-1.0, 1.0) if found else ():

            def change(record: Record, shift: float = shift) -> Record:
                return suppose_many(record, shift if record.cell.id == cell.id else 0.0)

            with_many = self.judge(cell, spec, change).verdicts
            decided |= {_name_of(v) for v in with_many if v.verdict != "INCONCLUSIVE"}
        return found, [verdict for verdict in found if _name_of(verdict) in decided]

    def _order(self, undecided: Iterable[tuple[Turn, list[Verdict]]]) -> list[Turn]:
        turns: dict[Key, Turn] = {}
        for (cell, spec), verdicts in undecided:
            cells = [cell]
            if self.reference and any(_is_paired(spec.name, verdict) for verdict in verdicts):
                cells = [Cell(cell.model, self.reference, ()), cell]
            turns |= {(one.id, spec.name): (one, spec) for one in cells}
        able = [turn for key, turn in turns.items() if self._can_have_more(key)]
        return able[:: -1 if self._rounds % 2 else 1]

    def _can_have_more(self, key: Key) -> bool:
        """Not at its most, nor after a process that failed."""
        processes, record = self.processes.get(key), self.records.get(key)
        return bool(
            processes
            and record
            and record.looks
            and len(processes) < record.looks.most
            and processes[-1].validity.status != "failed"
        )

    def _take_s(self, cell: Cell, spec: MeasurementSpec) -> float:
        """How long one more process will probably take."""
        return fmean(p.seconds.get("total", 0.0) for p in self.processes[cell.id, spec.name])

    def _measure_one(self, cell: Cell, spec: MeasurementSpec) -> None:
        processes = self.processes[cell.id, spec.name]
        more = with_repeats(spec.options, len(processes) + 1)
        self.measure(cell, spec.model_copy(update={"options": more}), processes)
        self._measured += 1


def _same(record: Record) -> Record:
    return record


def _name_of(verdict: Verdict) -> tuple[str, ...]:
    return verdict.metric, verdict.against, verdict.bound, verdict.position


def _is_paired(measurement: str, verdict: Verdict) -> bool:
    """Whether it is on a value that compares with the reference of its own run."""
    spec = find_spec(measurement, verdict.metric.partition(".")[2])
    return spec is not None and spec.paired and verdict.against == "limit"


def _list_open(record: Record) -> list[Verdict]:
    """Its open verdicts on processes."""
    specs = [find_spec(record.measurement, v.metric.partition(".")[2]) for v in record.verdicts]
    return [
        verdict
        for verdict, spec in zip(record.verdicts, specs)
        if verdict.verdict == "INCONCLUSIVE" and spec and spec.sampled == "processes"
    ]


def _say_what_it_takes(record: Record, verdict: Verdict, more_decide: bool) -> str:
    assert record.looks is not None
    n = record.looks.at[-1]
    text = f"{record.cell.id} {verdict.metric} after {n} process{'es' * (n > 1)}"
    if not more_decide:
        return f"{text} (more of them do not decide it)"
    if verdict.enough is None:
        return text
    sides = 2 if _is_paired(record.measurement, verdict) else 1
    took = show_time(sides * record.seconds.get("total", 0.0) / n * (verdict.enough - n))
    return f"{text} (about {verdict.enough:,} would decide it, {took} more)"


def _name(found: Sequence[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
