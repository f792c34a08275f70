"""Nights on which what is suspicious is measured again beside the blessed commit: `--confirm`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from harness.records.record import Record, SameNight
from harness.run.same_night import PAIRS
from harness.statistics.nights import ENOUGH_NIGHTS
from harness.verdicts.bless import bless
from harness.verdicts.same_night import is_suspicious
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Thresholds
from verdicts.machines import SPEEDS, Machine
from verdicts.share import Share
from verdicts.worlds import SPEED, as_run, record_night

_CELLS = 12
_SLOWER = 0.05
_MORE = 4
MARGIN = 0.03  # of a decode speed
Speeds = NDArray[np.float64]


def watch_confirmed(machine: Machine, blessed: int, repeats: int, rng: Generator) -> list[Share]:
    """Nights of nothing new, of a cell that is 5 % slower, and of one slower by the margin."""
    nothing, slower = Counter[str](), Counter[str]()
    alarms = 0
    for _ in range(repeats):
        made, nights = _bless(machine, blessed, rng)
        same = [
            verdict
            for record in _as_records(next(nights))
            for verdict in _confirm(made, record, 0.0, machine, rng)
        ]
        nothing.update(same)
        alarms += "FAIL" in same
        record = _as_records(next(nights) + math.log1p(-_SLOWER))[0]
        slower.update(_confirm(made, record, math.log1p(-_SLOWER), machine, rng))
    passed, tries = 0, _MORE * repeats
    for _ in range(tries):  # one speed of a night: those of one night share its luck
        made, nights = _bless(machine, blessed, rng)
        record = _as_records(next(nights) + math.log1p(-MARGIN))[0]
        passed += next(_confirm(made, record, math.log1p(-MARGIN), machine, rng)) == "PASS"
    return [
        *_count(nothing, slower, alarms, repeats, machine, blessed),
        Share(
            _name_judge(blessed),
            f"{SPEEDS} speeds, {machine.name}",
            f"confirmed, truth at the margin, {MARGIN:.0%}: PASS",
            passed,
            tries,
            at_most=0.05 if _is_known(machine, blessed) else None,
        ),
    ]


def _bless(machine: Machine, blessed: int, rng: Generator) -> tuple[Thresholds, Iterator[Speeds]]:
    """Thresholds of so many nights, and the nights after them."""
    nights = machine.begin(rng)
    runs = [as_run(*_as_records(next(nights)), number=number) for number in range(blessed)]
    made = bless(runs, "cpu", None, "calibration", "2026-01-01").thresholds
    if machine.tonight != 1:
        nights = replace(machine, process=machine.process * machine.tonight).begin(rng)
    return made, nights


def _is_known(machine: Machine, blessed: int) -> bool:
    """Whether the first judgement, by the blessed nights alone, knows what it needs to know.

    Three nights are trusted, and a noisier one after them is not like them.
    """
    return machine.tonight == 1 or blessed < ENOUGH_NIGHTS


def _name_judge(blessed: int) -> str:
    return f"thresholds of {blessed} night{'s' * (blessed > 1)}, --confirm"


def _confirm(
    made: Thresholds, record: Record, change: float, machine: Machine, rng: Generator
) -> Iterator[str]:
    """The verdicts on a cell; pairs share the night, so only their processes differ."""
    verdicts = judge_thresholds(made, {}, record, confirms=True)
    if is_suspicious(record.model_copy(update={"verdicts": verdicts})):
        pairs = {}
        for name, value in record.values.items():
            luck = rng.normal((0.0, change), machine.process * machine.tonight, (PAIRS, 2))
            luck[rng.random(luck.shape) < machine.outliers] += math.log(0.8)
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
    judge = _name_judge(blessed)
    world = f"{SPEEDS} speeds, {machine.name}"
    n, few = nothing.total(), slower.total()
    what = "confirmed, nothing new:"
    most = 0.05 if _is_known(machine, blessed) else None
    yield Share(judge, world, f"{what} any FAIL in a night", alarms, repeats, at_most=most)
    usual = machine.tonight == 1 and not machine.outliers
    power, decided = ({"at_least": 0.90}, {"at_most": 0.10}) if usual else ({}, {})
    yield Share(judge, world, f"{what} undecided", nothing["INCONCLUSIVE"], n, **decided)
    yield Share(judge, world, "confirmed, 5 % slower: FAIL", slower["FAIL"], few, **power)


def _as_records(night: Speeds) -> list[Record]:
    """One for each cell."""
    speeds = SPEED * np.exp(night)
    return [record_night(one, f"m{i}") for i, one in enumerate(np.split(speeds, _CELLS))]
