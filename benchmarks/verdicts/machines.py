"""Machines whose nights differ, and a suite of speeds judged by what some of them blessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from harness.records.record import Record
from harness.verdicts.bless import bless
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Thresholds
from verdicts.share import Share
from verdicts.worlds import SPEED, as_run, record_night

_CELLS, _VALUES = 12, 8
SPEEDS = _CELLS * _VALUES
_PROCESSES = 3
_SLOWER, _FASTER = 0.05, 0.10
_FEW = 3  # cells that are judged of a night on which all are slower
Speeds = NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """Standard deviations of logarithms: of a process, and of a night, each speed's own and shared.

    ``likeness``: the spreads of speeds differ as the root of ``likeness``/χ²(``likeness``);
    ``outliers``: share of processes that are a fifth slower; ``drift``: standard deviation of each
    night's step from the last, shared by all speeds; ``a_night``: runs of a night; ``tonight``: how
    many times as much processes of the night that is judged differ.
    """

    name: str
    process: float = 0.01
    own: float = 0.0
    shared: float = 0.0
    likeness: float = math.inf
    outliers: float = 0.0
    drift: float = 0.0
    a_night: int = 1
    tonight: float = 1.0

    def begin(self, rng: Generator) -> Iterator[Speeds]:
        """Run after run, (speeds, processes), of one commit."""
        wide = np.ones(SPEEDS)
        if math.isfinite(self.likeness):
            wide = np.sqrt(self.likeness / rng.chisquare(self.likeness, SPEEDS))
        level = 0.0
        while True:
            level += rng.normal(0, self.drift)
            night = level + rng.normal(0, self.shared) + rng.normal(0, self.own, SPEEDS) * wide
            for _ in range(self.a_night):
                luck = rng.normal(0, self.process, (SPEEDS, _PROCESSES)) * wide[:, None]
                luck[rng.random(luck.shape) < self.outliers] += math.log(0.8)
                yield night[:, None] + luck


MACHINES = (
    Machine("processes σ 1 %"),
    Machine("processes σ 1 %, speeds of unequal spread", likeness=4),
    Machine("processes σ 1 %, nights σ 0.3 % each speed, 0.2 % all", own=0.003, shared=0.002),
    Machine("processes σ 0.5 %, nights σ 2 % each speed", 0.005, own=0.02),
    Machine("processes σ 0.5 %, nights σ 2 % all speeds", 0.005, shared=0.02),
    Machine("processes σ 1 %, 1 % of them a fifth slower", outliers=0.01),
    Machine("processes σ 0.5 %, drifting by 0.5 % a night", 0.005, drift=0.005),
    Machine("processes σ 0.5 %, nights σ 2 % all speeds", 0.005, shared=0.02, a_night=3),
)
# Only for `--confirm`: no rule for single nights holds where tonight is not like the blessed ones.
NOISY = Machine("processes σ 1 %, tonight 2 %", tonight=2.0)


@dataclass
class _Seen:
    """Nights, or values of nights, on which something happened."""

    nights: int = 0
    any_alarm: int = 0
    alarms: int = 0
    undecided: int = 0
    caught_one: int = 0
    caught_all: int = 0
    beside_gains: int = 0


def watch_nights(machine: Machine, blessed: int, repeats: int, rng: Generator) -> Iterator[Share]:
    """Nights of nothing new, of one or every speed 5 % slower, and of half the speeds faster."""
    seen = _Seen()
    for _ in range(repeats):
        nights = machine.begin(rng)
        runs = [
            as_run(*_as_records(next(nights)), number=number, a_night=machine.a_night)
            for number in range(blessed)
        ]
        made = bless(runs, "cpu", None, "calibration", "2026-01-01").thresholds

        same = list(_judge(made, next(nights), range(_CELLS)).values())
        seen.nights += 1
        seen.alarms += same.count("FAIL")
        seen.any_alarm += "FAIL" in same
        seen.undecided += same.count("INCONCLUSIVE")
        night, faster = next(nights), slice(SPEEDS // 2)
        night[faster] += math.log1p(_FASTER)
        seen.beside_gains += "FAIL" in _judge(made, night, range(_CELLS)).values()
        slower = next(nights) + math.log1p(-_SLOWER)
        found = list(_judge(made, slower, range(_FEW)).values())
        seen.caught_all += found.count("FAIL")
        night, cell = next(nights), int(rng.integers(_CELLS))
        night[cell * _VALUES] += math.log1p(-_SLOWER)
        [first, *_] = _judge(made, night, [cell]).values()
        seen.caught_one += first == "FAIL"
    return _count(seen, machine, blessed)


def _count(seen: _Seen, machine: Machine, blessed: int) -> Iterator[Share]:
    what = "night" if machine.a_night == 1 else "run"
    judge = f"thresholds of {blessed} {what}{'s' * (blessed > 1)}"
    judge += " of one night" * (machine.a_night > 1)
    world = f"{SPEEDS} speeds, {machine.name}"
    n, values = seen.nights, seen.nights * SPEEDS
    steady = machine is MACHINES[0] and blessed >= 3
    power = {"at_least": 0.90} if steady else {}
    decided = {"at_most": 0.10} if steady else {}
    yield Share(judge, world, "nothing new: FAIL, of all values", seen.alarms, values, at_most=0.02)
    yield Share(judge, world, "nothing new: any FAIL in a night", seen.any_alarm, n, at_most=0.05)
    yield Share(
        judge, world, "half improved: any FAIL in a night", seen.beside_gains, n, at_most=0.05
    )
    yield Share(judge, world, "one 5 % slower: FAIL", seen.caught_one, n, **power)
    yield Share(judge, world, "all 5 % slower: FAIL", seen.caught_all, n * _FEW * _VALUES, **power)
    yield Share(judge, world, "nothing new: undecided", seen.undecided, values, **decided)


def _judge(made: Thresholds, night: Speeds, cells: Iterable[int]) -> dict[str, str]:
    """The verdict on each value of these cells."""
    records = _as_records(night)
    return {
        f"{records[cell].cell.id} {verdict.metric}": verdict.verdict
        for cell in cells
        for verdict in judge_thresholds(made, {}, records[cell])
    }


def _as_records(night: Speeds) -> list[Record]:
    return [
        record_night(SPEED * np.exp(night[i * _VALUES : (i + 1) * _VALUES]), f"m{i}")
        for i in range(_CELLS)
    ]
