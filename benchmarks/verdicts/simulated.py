"""Simulated comparisons: how often each verdict raises a false alarm or misses a harm."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import numpy as np
from numpy.random import Generator

from harness.statistics.power import smallest_detectable_drop
from verdicts.judges import (
    COMPARE,
    Judge,
    Judged,
    ask_ab,
    compare_once,
    compare_records_of,
    judge_blessed,
    limit_judge,
    thresholds_judge,
)
from verdicts.share import Share
from verdicts.worlds import (
    World,
    answer_items,
    diverge,
    read_chunks,
    rename,
    take_memory,
    time_processes,
    time_rounds,
)

FALSE_ALARMS = {"quality": 0.05, "speed": 0.02, "memory": 0.05}
POWER = 0.80
_DECODE, _PREFILL = "decode_tokens_per_s[1]", "prefill_tokens_per_s[1]"


def simulate(repeats: int, seed: int) -> Iterator[Share]:
    """Every experiment, each with ``repeats`` comparisons and a stream of its own."""
    tries = Tries(repeats, seed)
    for world in _compared_worlds():
        yield from check_judge(tries, COMPARE, world)
    for world in _blessed_worlds():
        for runs in (1, 3):
            yield from check_judge(tries, thresholds_judge(runs), world)
    for judge, world in _limited_worlds():
        yield from check_judge(tries, judge, world)
    yield from _check_drops(tries)
    yield from _check_slowdowns(tries)
    yield from _check_growth(tries)
    yield from _check_margins(tries)
    yield from check_pooling(tries)
    yield from _check_many(tries)


class Tries:
    """Counts what comes of many tries; the same seed gives the same tries in any order."""

    def __init__(self, repeats: int, seed: int) -> None:
        self.repeats = repeats
        self._seed = seed

    def ask(self, label: str, once: Callable[[Generator], Judged]) -> list[Judged]:
        rng = self.stream(label)
        return [once(rng) for _ in range(self.repeats)]

    def count(self, label: str, happened: Callable[[Generator], bool]) -> int:
        rng = self.stream(label)
        return sum(happened(rng) for _ in range(self.repeats))

    def stream(self, label: str) -> Generator:
        """Random numbers of this experiment alone."""
        return np.random.default_rng([self._seed, zlib.crc32(label.encode())])


def check_judge(tries: Tries, judge: Judge, world: World) -> Iterator[Share]:
    """False alarms of A/A runs; and whether the harm that these say they would see is seen."""
    same = tries.ask(f"{judge.name} {world.name} A/A", partial(_ask, judge, world, 0.0))
    # A text has no spread between runs on one machine, and a single blessed run shows none.
    unknown = judge.name == thresholds_judge(1).name and world.name.startswith("perplexity")
    yield Share(
        judge.name,
        world.name,
        "A/A: FAIL",
        _fails(same),
        tries.repeats,
        at_most=None if unknown else FALSE_ALARMS[world.kind],
    )
    stated = [one.smallest for one in same if one.smallest is not None]
    harm = median(stated) if stated else math.inf
    if harm < 1:  # nothing can lose more than all of its speed
        what = f"stated smallest, {harm:.2%}: FAIL"
        yield _check_power(tries, judge, world, harm, what, POWER)


def _check_power(
    tries: Tries, judge: Judge, world: World, harm: float, what: str, target: float
) -> Share:
    label = f"{judge.name} {world.name} {what}"
    found = tries.ask(label, partial(_ask, judge, world, harm))
    return Share(judge.name, world.name, what, _fails(found), tries.repeats, at_least=target)


def _compared_worlds() -> Iterator[World]:
    for n in (200, 1000, 5000):
        for flips in (0.005, 0.02, 0.08):
            yield answer_items(n, flips)
    for chunks in (10, 60, 300):
        for noise in (0.002, 0.02):
            yield read_chunks(chunks, noise)
    yield read_chunks(60, 0.02, heavy=True)
    for chunks in (10, 60):
        for noise in (0.05, 0.5):
            yield diverge(chunks, noise)
    for spread in (0.01, 0.02, 0.05):
        for first, later in ((1, 1), (3, 1), (3, 3), (6, 6)):
            yield time_processes(_DECODE, spread, first, later)
    for spread in (0.02, 0.05):
        yield time_processes(_PREFILL, spread, 3, 3)
    yield take_memory(1 << 30, 4 << 20)
    yield take_memory(60 << 20, 1 << 20)


def _blessed_worlds() -> Iterator[World]:
    yield answer_items(200, 0.02)
    yield answer_items(1000, 0.005)
    yield answer_items(1000, 0.02)
    yield read_chunks(60, 0.002)
    yield read_chunks(60, 0.02)
    yield diverge(60, 0.05)
    for spread in (0.01, 0.02, 0.05):
        yield time_processes(_DECODE, spread, 3, 3)
    yield time_processes(_DECODE, 0.02, 6, 6)
    yield take_memory(1 << 30, 4 << 20)
    yield take_memory(60 << 20, 1 << 20)


def _limited_worlds() -> Iterator[tuple[Judge, World]]:
    for n, flips in ((200, 0.08), (1000, 0.02), (5000, 0.08)):
        yield limit_judge("mmlu.accuracy_drop", "max", 0.01), answer_items(n, flips)
    for chunks in (10, 60):
        yield limit_judge("perplexity.ratio", "max", 1.01), read_chunks(chunks, 0.02)
    for processes in (3, 6):
        world = time_processes(_DECODE, 0.02, processes, processes)
        yield limit_judge("throughput.decode_speedup", "min", 0.97), world


def _check_drops(tries: Tries) -> Iterator[Share]:
    """What `smallest_detectable_drop` promises before a run, where no harm at all is allowed."""
    judge = limit_judge("mmlu.accuracy_drop", "max", 0.0)
    for n, flips in ((300, 0.08), (1000, 0.02), (1000, 0.08), (6277, 0.08)):
        world, harm = answer_items(n, flips), smallest_detectable_drop(n, flips)
        what = f"announced smallest, {harm:.2%}: FAIL"
        yield _check_power(tries, judge, world, harm, what, POWER)


def _check_slowdowns(tries: Tries) -> Iterator[Share]:
    """5 % slower where processes differ by 1 %: 6 processes a side, 6 pairs that drift by 3 %."""
    what = "5 % slower: FAIL"
    for value in (_DECODE, _PREFILL):
        world = time_processes(value, 0.01, 6, 6)
        if value == _DECODE:
            yield _check_power(tries, COMPARE, world, 0.05, what, 0.95)
        pair = time_processes(value, 0.01, 1, 1)
        judge = Judge("ab, 6 pairs", lambda w, rng, harm: ask_ab(w, rng, harm, 6, 0.03))
        same = tries.ask(f"ab {pair.name} A/A", partial(_ask, judge, pair, 0.0))
        yield Share(
            judge.name, pair.name, "A/A: A is better", _fails(same), tries.repeats, at_most=0.05
        )
        yield _check_power(tries, judge, pair, 0.05, "5 % slower: A is better", 0.95)


def _check_growth(tries: Tries) -> Iterator[Share]:
    """Peaks that grow by the margin and what the allocator keeps."""
    for world, harm in (
        (take_memory(1 << 30, 4 << 20), 0.025),
        (take_memory(60 << 20, 1 << 20), 0.04),
    ):
        for judge in (COMPARE, thresholds_judge(1), thresholds_judge(3)):
            yield _check_power(tries, judge, world, harm, f"{harm:.1%} more: FAIL", POWER)


def _check_margins(tries: Tries) -> Iterator[Share]:
    """PASS, where the true harm is all that is allowed."""
    for judge, world, harm in (
        (COMPARE, answer_items(1000, 0.02), 0.01),
        (COMPARE, answer_items(5000, 0.08), 0.01),
        (COMPARE, read_chunks(60, 0.02), 0.005),
        (COMPARE, read_chunks(10, 0.02), 0.005),
        (COMPARE, time_processes(_DECODE, 0.02, 3, 3), 0.03),
        (COMPARE, time_processes(_DECODE, 0.02, 6, 6), 0.03),
        (limit_judge("mmlu.accuracy_drop", "max", 0.02), answer_items(1000, 0.04), 0.02),
        (limit_judge("mmlu.retention", "min", 0.95), answer_items(1000, 0.08), 0.05 * 0.6),
        (limit_judge("mmlu.acc", "min", 0.55), answer_items(1000, 0.08, sampled=True), 0.05),
        (limit_judge("perplexity.ratio", "max", 1.02), read_chunks(60, 0.02), 0.02),
        (limit_judge("perplexity.ratio", "max", 1.02), read_chunks(60, 0.02, heavy=True), 0.02),
        (
            limit_judge("throughput.decode_speedup", "min", 0.9),
            time_processes(_DECODE, 0.02, 3, 3),
            0.1,
        ),
        (
            limit_judge("throughput.decode_speedup", "min", 0.9),
            time_processes(_DECODE, 0.02, 6, 1),
            0.1,
        ),
        (
            limit_judge("throughput.decode_tokens_per_s[1]", "min", 90.0),
            time_processes(_DECODE, 0.02, 3, 3),
            0.1,
        ),
    ):
        what = f"true harm = margin, {harm:.1%}: PASS"
        label = f"{judge.name} {world.name} {what}"
        found = tries.ask(label, partial(_ask, judge, world, harm))
        passed = sum(one.outcome in ("PASS", "IDENTICAL") for one in found)
        yield Share(judge.name, world.name, what, passed, tries.repeats, at_most=0.05)


def check_pooling(tries: Tries, processes: int = 3, rounds: int = 40) -> Iterator[Share]:
    """Differences found where there is none: by processes, and by rounds taken for samples."""
    for pooled in (False, True):
        world = time_rounds(0.02, processes, rounds, pooled)

        def differs(rng: Generator, world: World = world) -> bool:
            [one] = compare_once(world, rng, 0.0)
            assert one.interval is not None
            return not one.interval[0] <= 1 <= one.interval[1]

        found = tries.count(world.name, differs)
        target = {"at_least": 0.60} if pooled else {"at_most": 0.05}
        what = "A/A: the interval leaves 1 out"
        yield Share("compare", world.name, what, found, tries.repeats, **target)


def _check_many(tries: Tries) -> Iterator[Share]:
    """Runs of 40 cells: whether any fails though none is worse; and among some that are."""
    cells = [answer_items(400, 0.08)] * 20 + [time_processes(_DECODE, 0.05, 3, 3)] * 20
    repeats = max(1, tries.repeats // 10)
    rng = tries.stream("many")
    alarms = unadjusted = 0
    for _ in range(repeats):
        found = _compare_many(cells, rng, [0.0] * len(cells))
        alarms += any(verdict == "FAIL" for verdict, _ in found)
        unadjusted += any(verdict == "FAIL" or before for verdict, before in found)
    name = "40 cells: 20 of 400 items, 20 of 3 processes at σ 5 %"
    yield Share("compare", name, "A/A: any FAIL", alarms, repeats, at_most=0.05)
    yield Share("compare", name, "A/A: any FAIL without Benjamini-Hochberg", unadjusted, repeats)
    yield _check_discoveries(tries.stream("discoveries"), repeats)
    for runs in (1, 3):
        yield _check_nights(tries.stream(f"nights {runs}"), repeats, runs)


def _compare_many(cells: list[World], rng: Generator, harms: list[float]) -> list[tuple[str, bool]]:
    """Per cell the verdict, and whether it is one that only the adjustment left open."""
    before, after = [], []
    for number, (world, harm) in enumerate(zip(cells, harms, strict=True)):
        first, draw = world.begin(rng)
        before.append(rename(first, f"m{number}"))
        after.append(rename(draw(harm), f"m{number}"))
    found = {one.cell: one for one in compare_records_of(before, after)}
    ordered = [found[record.cell.id] for record in before]
    return [(one.verdict, "this many comparisons" in one.reason) for one in ordered]


def _check_discoveries(rng: Generator, repeats: int) -> Share:
    """Of all that fails where 10 cells of 40 are worse, those that are not."""
    cells, harms = [answer_items(1000, 0.08)] * 40, [0.04] * 10 + [0.0] * 30
    false = discovered = 0
    for _ in range(repeats):
        failed = [verdict == "FAIL" for verdict, _ in _compare_many(cells, rng, harms)]
        false += sum(failed[10:])
        discovered += sum(failed)
    what = "10 of 40 are worse: FAILs that are false"
    return Share("compare", cells[0].name, what, false, max(1, discovered), at_most=0.05)


def _check_nights(rng: Generator, repeats: int, runs: int) -> Share:
    """Nights on which any of 20 cells fails its threshold, though none is worse."""
    world = time_processes(_DECODE, 0.02, 3, 3)
    alarms = 0
    for _ in range(repeats):
        draws = [world.begin(rng)[1] for _ in range(20)]
        blessed = [
            [rename(draw(0.0), f"m{i}") for i, draw in enumerate(draws)] for _ in range(runs)
        ]
        night = [rename(draw(0.0), f"m{i}") for i, draw in enumerate(draws)]
        alarms += any(v.verdict == "FAIL" for v in judge_blessed(blessed, night))
    name = f"20 cells: {world.name}"
    return Share(thresholds_judge(runs).name, name, "A/A: any FAIL", alarms, repeats, at_most=0.05)


def _ask(judge: Judge, world: World, harm: float, rng: Generator) -> Judged:
    return judge.ask(world, rng, harm)


def _fails(found: list[Judged]) -> int:
    return sum(one.outcome == "FAIL" for one in found)
