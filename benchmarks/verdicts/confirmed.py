"""Nights on which what is suspicious is measured again beside the blessed commit: `--confirm`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from harness.records.record import Record, SameNight
from harness.run.same_night import PAIRS
from harness.verdicts.bless import bless
from harness.verdicts.same_night import is_suspicious
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Thresholds
from verdicts.machines import SPEEDS, Machine
from verdicts.share import Share
from verdicts.worlds import SPEED, as_run, record_night

_CELLS = 12
_SLOWER = 0.05
Speeds = NDArray[np.float64]


def watch_confirmed(machine: Machine, blessed: int, repeats: int, rng: Generator) -> list[Share]:
    """Nights of nothing new, and nights on which all speeds of one cell are 5 % slower."""
    nothing, slower = Counter[str](), Counter[str]()
    alarms = 0
    for _ in range(repeats):
        nights = machine.begin(rng)
        runs = [as_run(*_as_records(next(nights)), number=number) for number in range(blessed)]
        made = bless(runs, "cpu", None, "calibration", "2026-01-01").thresholds
        same = [
            verdict
            for record in _as_records(next(nights))
            for verdict in _confirm(made, record, 0.0, machine, rng)
        ]
        nothing.update(same)
        alarms += "FAIL" in same
        record = _as_records(next(nights) + math.log1p(-_SLOWER))[0]
        slower.update(_confirm(made, record, math.log1p(-_SLOWER), machine, rng))
    return list(_count(nothing, slower, alarms, repeats, machine, blessed))


def _confirm(
    made: Thresholds, record: Record, change: float, machine: Machine, rng: Generator
) -> Iterator[str]:
    """The verdicts on a cell; pairs share the night, so only their processes differ."""
    verdicts = judge_thresholds(made, {}, record)
    if is_suspicious(record.model_copy(update={"verdicts": verdicts})):
        pairs = {}
        for name, value in record.values.items():
            luck = rng.normal((0.0, change), machine.process, (PAIRS, 2))
            assert value.value is not None
            pairs[name] = tuple((a, b) for a, b in (value.value * np.exp(luck)).tolist())
        blessed = made.find(record)
        assert blessed is not None
        found = SameNight(commit=blessed.commit, pairs=pairs)
        again = record.model_copy(update={"same_night": found})
        verdicts = judge_thresholds(made, {}, again)
    yield from (one.verdict for one in verdicts)


def _count(
    nothing: Counter[str],
    slower: Counter[str],
    alarms: int,
    repeats: int,
    machine: Machine,
    blessed: int,
) -> Iterator[Share]:
    judge = f"thresholds of {blessed} night{'s' * (blessed > 1)}, --confirm"
    world = f"{SPEEDS} speeds, {machine.name}"
    n, few = nothing.total(), slower.total()
    what = "confirmed, nothing new:"
    yield Share(judge, world, f"{what} any FAIL in a night", alarms, repeats, at_most=0.05)
    yield Share(judge, world, f"{what} undecided", nothing["INCONCLUSIVE"], n, at_most=0.10)
    yield Share(judge, world, "confirmed, 5 % slower: FAIL", slower["FAIL"], few, at_least=0.90)


def _as_records(night: Speeds) -> list[Record]:
    """One for each cell."""
    speeds = SPEED * np.exp(night)
    return [record_night(one, f"m{i}") for i, one in enumerate(np.split(speeds, _CELLS))]
