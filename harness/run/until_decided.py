"""More processes for limits that are undecided: in rounds, the reference and open cells in turn.

How the bounds allow for so many looks is in `harness.verdicts.looks`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeAlias

from harness.records.record import Looks, Record, Verdict
from harness.records.values import find_spec
from harness.run.repeats import merge_repeats
from harness.run.varied import with_repeats
from harness.suite.cells import Cell
from harness.suite.models import MeasurementSpec, PrecisionSpec
from harness.verdicts.advice import show_time
from harness.verdicts.looks import (
    FEWEST,
    list_timed,
    list_verdicts,
    most_processes,
    suppose_many,
)

Key: TypeAlias = tuple[str, str]  # a cell's id and a measurement's name
Turn: TypeAlias = tuple[Cell, MeasurementSpec]
Change: TypeAlias = Callable[[Record], Record]
_SHOWN = 3  # values named in one sentence
_TRIES = 2  # processes one after another that give no numbers: then there are no more


@dataclass
class ExtraRounds:
    """Each round measures one more process of every cell that is open, and of its reference.

    Their order turns around from round to round, so that what drifts falls on all alike. A cell
    that has a limit is brought to `FEWEST` processes before it is looked at. It ends when nothing
    is open that more processes may decide, and when the time is up: no round begins that would
    probably end after ``at_most_s``.

    A value that is decided keeps its verdict, whatever is measured after it. Of the processes
    beyond those that the suite asks for only sound ones count: what nobody asked for flags nothing.

    ``records`` are the run's. ``judge`` gives the record of a cell with its verdicts, after a
    change of what was measured; what its looks have decided stays. ``measure`` adds one process to
    those given, ``keep`` puts a new record in the place of the cell's.
    """

    planned: Mapping[Key, Turn]
    reference: PrecisionSpec | None
    records: MutableMapping[Key, Record]
    judge: Callable[[Cell, MeasurementSpec, Change], Record]
    measure: Callable[[Cell, MeasurementSpec, list[Record]], None]
    keep: Callable[[Key, Record], None]
    at_most_s: float | None
    on_notice: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    processes: dict[Key, list[Record]] = field(default_factory=dict)
    _asked: dict[Key, int] = field(default_factory=dict)  # processes, by the suite
    _rounds: int = 0
    _measured: int = 0
    _spent_s: float = 0.0
    _is_time_up: bool = False
    _has_ended: bool = False  # by itself: nothing is left that more may decide

    @property
    def has_begun(self) -> bool:
        """Whether there has been a first look, at what the suite asks for."""
        return bool(self._asked)

    def take(self) -> None:
        """Measure until nothing is open or the time is up. Ctrl-C ends it at any time."""
        self._asked = {key: len(found) for key, found in self.processes.items()}
        for key, asked in self._asked.items():
            first = list_timed(self.records[key]) if asked else None
            if first:  # else it failed, or comes from the cache
                looks = Looks(at=(), most=most_processes(asked), first=first)
                self.keep(key, self.records[key].model_copy(update={"looks": looks}))
        for key in self._asked:
            self._look(key)
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
            for cell, spec in turns:
                self._look((cell.id, spec.name))
        self._has_ended = True

    def describe(self) -> str:
        """What was done, what is still open, and what that would take."""
        left = [
            self._say_what_it_takes(record, verdict)
            for key, turn in self.planned.items()
            if key in self.processes and self.records[key].looks
            for record in [self.judge(*turn, _same)]
            for verdict in list_verdicts(record)
            if verdict.verdict == "INCONCLUSIVE"
        ]
        text = f"--until-decided: {self._measured} more processes in {self._rounds} rounds"
        text += f", {show_time(self._spent_s)}" if self._rounds else ""
        text += ", then the time was up (--at-most)" if self._is_time_up else ""
        end = f"still open: {_name(left)}" if left else "every limit on speeds is decided"
        return f"{text}; {end}"

    def _find_undecided(self) -> list[tuple[Turn, list[Verdict]]]:
        """Open verdicts that more processes may decide, of what can have more."""
        found = []
        for key, turn in self.planned.items():
            able = self._list_open(*turn) if self._can_have_more(key) else []
            found += [(turn, able)] if able else []
        return found

    def _list_open(self, cell: Cell, spec: MeasurementSpec) -> list[Verdict]:
        """Verdicts before the first look, and open ones that very many processes may decide.

        As many of what can have more, whose mean is one standard error off, to either side.
        """
        found = list_verdicts(self.judge(cell, spec, _same))
        looks = self.records[cell.id, spec.name].looks
        if looks is None or not looks.at:
            return found
        decided = set()
        for shift in (-1.0, 1.0) if any(v.verdict == "INCONCLUSIVE" for v in found) else ():

            def change(record: Record, shift: float = shift) -> Record:
                if not self._can_have_more((record.cell.id, record.measurement)):
                    return record
                return suppose_many(record, shift if record.cell.id == cell.id else 0.0)

            with_many = list_verdicts(self.judge(cell, spec, change))
            decided |= {i for i, v in enumerate(with_many) if v.verdict != "INCONCLUSIVE"}
        return [v for i, v in enumerate(found) if v.verdict == "INCONCLUSIVE" and i in decided]

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
        """Not at its most, nor after processes that gave no numbers."""
        processes, record = self.processes.get(key), self.records.get(key)
        if not processes or record is None or record.looks is None:
            return False
        last = processes[self._asked[key] :][-_TRIES:]
        was_in_vain = len(last) == _TRIES and not any(one.usable for one in last)
        return len(processes) < record.looks.most and not was_in_vain

    def _take_s(self, cell: Cell, spec: MeasurementSpec) -> float:
        """How long one more process will probably take."""
        return fmean(p.seconds.get("total", 0.0) for p in self.processes[cell.id, spec.name])

    def _measure_one(self, cell: Cell, spec: MeasurementSpec) -> None:
        processes = self.processes[cell.id, spec.name]
        more = with_repeats(spec.options, len(processes) + 1)
        key, before = (cell.id, spec.name), len(processes)
        self.measure(cell, spec.model_copy(update={"options": more}), processes)
        self._measured += len(processes) - before
        counted, spare = self._split(key)
        earlier = self.records[key]
        update = {"looks": earlier.looks, "reference_only": earlier.reference_only}
        self.keep(key, merge_repeats(counted, spare=spare).model_copy(update=update))

    def _split(self, key: Key) -> tuple[list[Record], list[Record]]:
        """The processes that count, and the others."""
        processes, asked = self.processes[key], self._asked[key]
        more = processes[asked:]
        spare = [one for one in more if not self._is_sound(key, one)]
        return [*processes[:asked], *(one for one in more if one not in spare)], spare

    def _is_sound(self, key: Key, extra: Record) -> bool:
        """Whether it does not fail, and brings no flag to processes that have none."""
        asked = self.processes[key][: self._asked[key]]
        is_flagged = any(one.validity.status == "flagged" for one in asked)
        return extra.validity.status == "ok" or (extra.usable and is_flagged)

    def _look(self, key: Key) -> None:
        """Judge the cell's own limits once more, if it has more processes that count."""
        looks, n = self.records[key].looks, sum(one.usable for one in self._split(key)[0])
        if looks is None or n < FEWEST or n <= max(looks.at, default=0):
            return

        def with_look(record: Record) -> Record:
            is_own = (record.cell.id, record.measurement) == key
            return record.model_copy(update={"looks": again}) if is_own else record

        again = looks.again(n)
        if key in self.planned:
            judged = self.judge(*self.planned[key], with_look)
            again = again.model_copy(update={"verdicts": tuple(list_verdicts(judged))})
        self.keep(key, self.records[key].model_copy(update={"looks": again}))

    def _say_what_it_takes(self, record: Record, verdict: Verdict) -> str:
        looks = record.looks
        assert looks is not None
        key = record.cell.id, record.measurement
        n, enough = sum(one.usable for one in self._split(key)[0]), verdict.enough
        text = f"{record.cell.id} {verdict.metric} after {n} process{'es' * (n > 1)}"
        if len(self.processes[key]) >= looks.most:
            told = f"about {enough:,} would decide it: harness ab" if enough else ""
        elif self._has_ended:
            told = "more of them do not decide it"
        elif enough:
            sides = 2 if _is_paired(record.measurement, verdict) else 1
            took = sides * record.seconds.get("total", 0.0) / n * max(1, enough - n)
            told = f"about {enough:,} would decide it, {show_time(took)} more"
        else:
            told = ""
        return f"{text} ({told})" if told else text


def _same(record: Record) -> Record:
    return record


def _is_paired(measurement: str, verdict: Verdict) -> bool:
    """Whether it is on a value that compares with the reference of its own run."""
    spec = find_spec(measurement, verdict.metric.partition(".")[2])
    return spec is not None and spec.paired


def _name(found: Sequence[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
