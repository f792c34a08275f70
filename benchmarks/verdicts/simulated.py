"""Simulated comparisons: how often each verdict raises a false alarm or misses a harm."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median

import numpy as np
from numpy.random import Generator

from harness.statistics.power import POWER, smallest_passed
from verdicts.confirmed import watch_confirmed
from verdicts.judges import (
    COMPARE,
    COMPARE_NIGHTS,
    Judge,
    Judged,
    ask_ab,
    compare_once,
    compare_records_of,
    judge_blessed,
    limit_judge,
    thresholds_judge,
)
from verdicts.limited import A_SUITE, LIMITS, Limited, breaks_any
from verdicts.machines import MACHINES, NOISY, Machine, watch_nights
from verdicts.share import Share
from verdicts.shipped import SUITES, check_shipped
from verdicts.until_decided import (
    Rule,
    judge_by_comparison,
    judge_by_limit,
    watch_until_decided,
)
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
_DECODE, _PREFILL = "decode_tokens_per_s[1]", "prefill_tokens_per_s[1]"

Experiment = Callable[["Tries"], list[Share]]


def simulate(repeats: int, seed: int, workers: int) -> Iterator[list[Share]]:
    """Every experiment, each with ``repeats`` comparisons and a stream of its own, in order."""
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(partial(_carry_out, Tries(repeats, seed)), list_experiments())


def _carry_out(tries: Tries, experiment: Experiment) -> list[Share]:
    return experiment(tries)


def list_experiments() -> list[Experiment]:
    """Each gives its shares; the long ones first."""
    return [
        *(partial(check_shipped, path=path) for path in SUITES),
        _check_tasks,
        _check_many,
        *(partial(_watch, machine=one, blessed=3) for one in MACHINES),
        *(partial(_watch, machine=one, blessed=1) for one in (MACHINES[0], MACHINES[4])),
        *(
            partial(_confirm, machine=one, blessed=1)
            for one in (MACHINES[0], *MACHINES[3:5], NOISY)
        ),
        *(partial(_confirm, machine=one, blessed=3) for one in (*MACHINES[3:6], NOISY)),
        *(partial(_decide, rule=one) for one in (judge_by_limit, judge_by_comparison)),
        *(partial(_check_limit, limited=one) for one in LIMITS),
        _check_suite,
        *(partial(check_judge, judge=COMPARE, world=world) for world in _compared_worlds()),
        *(
            partial(check_judge, judge=thresholds_judge(runs), world=world)
            for world in _blessed_worlds()
            for runs in (1, 3)
        ),
        partial(
            check_judge,
            judge=COMPARE_NIGHTS,
            world=time_processes(_DECODE, 0.005, 3, 3, night=0.02),
        ),
        _check_coverage,
        _check_drops,
        _check_enough,
        _check_slowdowns,
        _check_growth,
        _check_margins,
        check_pooling,
    ]


class Tries:
    """Counts what comes of many tries; the same seed gives the same tries in any order."""

    def __init__(self, repeats: int, seed: int) -> None:
        self.repeats = repeats
        self._seed = seed

    def ask(self, label: str, once: Callable[[Generator], Judged], times: int = 1) -> list[Judged]:
        rng = self.stream(label)
        return [once(rng) for _ in range(times * self.repeats)]

    def count(self, label: str, happened: Callable[[Generator], bool]) -> int:
        rng = self.stream(label)
        return sum(happened(rng) for _ in range(self.repeats))

    def stream(self, label: str) -> Generator:
        """Random numbers of this experiment alone."""
        return np.random.default_rng([self._seed, zlib.crc32(label.encode())])


def _watch(tries: Tries, machine: Machine, blessed: int) -> list[Share]:
    rng = tries.stream(f"{machine.name} {blessed}")
    return list(watch_nights(machine, blessed, tries.repeats, rng))


def _confirm(tries: Tries, machine: Machine, blessed: int) -> list[Share]:
    """A quarter of the nights: each is 96 speeds, most of them with pairs."""
    rng = tries.stream(f"confirmed {machine.name} {blessed}")
    return watch_confirmed(machine, blessed, max(1, tries.repeats // 4), rng)


def _decide(tries: Tries, rule: Rule) -> list[Share]:
    rng = tries.stream(f"until decided {rule.__name__}")
    return list(watch_until_decided(rule, tries.repeats, rng))


def _check_limit(tries: Tries, limited: Limited) -> list[Share]:
    """A truth 10 % inside its limit, at it, and 10 % beyond it."""
    judge = limit_judge(limited.metric, limited.side, limited.bound)
    shares = []
    for part, where in ((0.9, "10 % inside"), (1.0, "at it"), (1.1, "10 % beyond")):
        world, harm = limited.make(part)
        found = tries.ask(f"{judge.name} {world.name} {where}", partial(_ask, judge, world, harm))
        if part <= 1:
            what = f"truth {where}: FAIL"
            count = _fails(found)
            shares.append(Share(judge.name, world.name, what, count, tries.repeats, at_most=0.05))
        if part >= 1:
            passed = sum(one.outcome == "PASS" for one in found)
            what = f"truth {where}: PASS"
            target = limited.passes_at_most
            shares.append(
                Share(judge.name, world.name, what, passed, tries.repeats, at_most=target)
            )
    return shares


def _check_suite(tries: Tries) -> list[Share]:
    """All limits of a suite in one night: whether any fails though every truth is within."""
    shares, name = [], f"a suite of {len(A_SUITE)} limits"
    for part, where in ((0.9, "10 % inside"), (1.0, "at it")):
        alarms = tries.count(f"{name} {where}", partial(breaks_any, A_SUITE, part))
        what = f"each truth {where}: any FAIL in a night"
        shares.append(Share("limits", name, what, alarms, tries.repeats, at_most=0.05))
    return shares


def check_judge(tries: Tries, judge: Judge, world: World) -> list[Share]:
    """False alarms of A/A runs; and whether the harm that these say they would see is seen."""
    # What two degrees of freedom state differs so much that its median takes more.
    times = 4 if judge.name == thresholds_judge(3).name and world.kind == "speed" else 1
    same = tries.ask(f"{judge.name} {world.name} A/A", partial(_ask, judge, world, 0.0), times)
    alarms = Share(
        judge.name,
        world.name,
        "A/A: FAIL",
        _fails(same),
        len(same),
        at_most=FALSE_ALARMS[world.kind],
    )
    stated = [one.smallest for one in same if one.smallest is not None]
    harm = median(stated) if stated else math.inf
    if harm >= 1:  # nothing can lose more than all of its speed
        return [alarms]
    what = f"stated smallest, {harm:.2%}: FAIL"
    return [alarms, _check_power(tries, judge, world, harm, what, _stated_power(world))]


def _stated_power(world: World) -> float | None:
    """80 %, where the spread is that of independent samples."""
    return None if "heavy" in world.name else POWER


def _check_power(
    tries: Tries, judge: Judge, world: World, harm: float, what: str, target: float | None
) -> Share:
    label = f"{judge.name} {world.name} {what}"
    found = tries.ask(label, partial(_ask, judge, world, harm))
    return Share(judge.name, world.name, what, _fails(found), tries.repeats, at_least=target)


def _compared_worlds() -> Iterator[World]:
    for n in (200, 1000, 5000):
        for flips in (0.005, 0.02, 0.08):
            yield answer_items(n, flips)
    yield from (read_chunks(n, noise) for n in (10, 60, 300) for noise in (0.002, 0.02))
    for chunks in (20, 60, 300):
        yield read_chunks(chunks, 0.02, heavy=True, correlation=0.42)
    yield from (diverge(n, noise) for n in (10, 60) for noise in (0.05, 0.5))
    for spread in (0.01, 0.02, 0.05):
        for first, later in ((1, 1), (3, 1), (3, 3), (6, 6)):
            yield time_processes(_DECODE, spread, first, later)
    yield from (time_processes(_PREFILL, spread, 3, 3) for spread in (0.02, 0.05))
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


def _check_coverage(tries: Tries) -> list[Share]:
    """95 % intervals of a text's chunks: how often the truth is outside."""
    shares = []
    for chunks in (10, 20, 60, 300):
        for correlation in (0.0, 0.26, 0.42):
            world = read_chunks(chunks, 0.02, heavy=True, correlation=correlation)

            def misses(rng: Generator, world: World = world) -> bool:
                [one] = compare_once(world, rng, 0.0)
                assert one.interval is not None
                return not one.interval[0] <= 1 <= one.interval[1]

            count = tries.count(f"coverage {world.name}", misses)
            what = "A/A: the 95 % interval leaves 1 out"
            shares.append(Share("compare", world.name, what, count, tries.repeats, at_most=0.05))
    return shares


def _check_drops(tries: Tries) -> list[Share]:
    """What is announced before a run: the finest limit that so many items pass."""
    shares = []
    for n, flips in ((300, 0.08), (1000, 0.02), (1000, 0.08), (6277, 0.08)):
        world, passed = answer_items(n, flips), smallest_passed(n, flips)
        judge = limit_judge("mmlu.accuracy_drop", "max", passed)
        found = tries.ask(f"{judge.name} {world.name} announced", partial(_ask, judge, world, 0.0))
        count = sum(one.outcome == "PASS" for one in found)
        what = "announced, nothing lost: PASS"
        shares.append(Share(judge.name, world.name, what, count, tries.repeats, at_least=POWER))
    return shares


def _check_enough(tries: Tries) -> list[Share]:
    """As many samples as an open verdict says would decide, where its assumption is true."""
    makers: tuple[tuple[int, Callable[[int], World]], ...] = (
        (200, lambda n: answer_items(n, 0.02)),
        (20, lambda n: read_chunks(n, 0.02)),
        (60, lambda n: read_chunks(n, 0.02, correlation=0.42)),
        (60, lambda n: diverge(n, 0.5)),
        (3, lambda n: time_processes(_DECODE, 0.02, n, n)),
        (6, lambda n: time_processes(_DECODE, 0.05, n, n)),
    )
    shares = []
    for n, make in makers:
        world = make(n)
        found = tries.ask(f"{world.name} open", partial(_ask, COMPARE, world, 0.0))
        named = [one.enough for one in found if one.enough is not None]
        larger = make(round(median(named)))
        again = tries.ask(f"{larger.name} enough", partial(_ask, COMPARE, larger, 0.0))
        count = sum(one.outcome != "INCONCLUSIVE" for one in again)
        what = f"named by {n}, nothing changed: decided"
        share = Share(COMPARE.name, larger.name, what, count, tries.repeats, at_least=POWER)
        shares.append(share)
    return shares


def _check_slowdowns(tries: Tries) -> list[Share]:
    """5 % slower where processes differ by 1 %: 6 processes a side, 6 pairs that drift by 3 %."""
    what, shares = "5 % slower: FAIL", []
    for value in (_DECODE, _PREFILL):
        world = time_processes(value, 0.01, 6, 6)
        if value == _DECODE:
            shares.append(_check_power(tries, COMPARE, world, 0.05, what, 0.95))
        pair = time_processes(value, 0.01, 1, 1)
        judge = Judge("ab, 6 pairs", lambda w, rng, harm: ask_ab(w, rng, harm, 6, 0.03))
        same = tries.ask(f"ab {pair.name} A/A", partial(_ask, judge, pair, 0.0))
        shares += [
            Share(
                judge.name, pair.name, "A/A: A is better", _fails(same), tries.repeats, at_most=0.05
            ),
            _check_power(tries, judge, pair, 0.05, "5 % slower: A is better", 0.95),
        ]
    return shares


def _check_growth(tries: Tries) -> list[Share]:
    """Peaks that grow by the margin and what the allocator keeps."""
    return [
        _check_power(tries, judge, world, harm, f"{harm:.1%} more: FAIL", POWER)
        for world, harm in (
            (take_memory(1 << 30, 4 << 20), 0.025),
            (take_memory(60 << 20, 1 << 20), 0.04),
        )
        for judge in (COMPARE, thresholds_judge(1))
    ]


def _check_margins(tries: Tries) -> list[Share]:
    """PASS, where the true harm is all that is allowed."""
    unsteady = time_processes(_DECODE, 0.005, 3, 3, night=0.02)
    shares = []
    for judge, world, harm in (
        (COMPARE, answer_items(1000, 0.02), 0.01),
        (COMPARE, answer_items(5000, 0.08), 0.01),
        (COMPARE, read_chunks(60, 0.02), 0.005),
        (COMPARE, read_chunks(10, 0.02), 0.005),
        (COMPARE, time_processes(_DECODE, 0.02, 3, 3), 0.03),
        (COMPARE, time_processes(_DECODE, 0.02, 6, 6), 0.03),
        (COMPARE_NIGHTS, unsteady, 0.03),
        (thresholds_judge(1), unsteady, 0.03),
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
        shares.append(Share(judge.name, world.name, what, passed, tries.repeats, at_most=0.05))
    return shares


def check_pooling(tries: Tries, processes: int = 3, rounds: int = 40) -> list[Share]:
    """Differences found where there is none: by processes, and by rounds taken for samples."""
    shares = []
    for pooled in (False, True):
        world = time_rounds(0.02, processes, rounds, pooled)

        def differs(rng: Generator, world: World = world) -> bool:
            [one] = compare_once(world, rng, 0.0)
            assert one.interval is not None
            return not one.interval[0] <= 1 <= one.interval[1]

        found = tries.count(world.name, differs)
        target = {"at_least": 0.60} if pooled else {"at_most": 0.05}
        what = "A/A: the interval leaves 1 out"
        shares.append(Share("compare", world.name, what, found, tries.repeats, **target))
    return shares


def _check_many(tries: Tries) -> list[Share]:
    """Runs of 100 values: whether any fails though none is worse, or half improved."""
    cells = [answer_items(400, 0.08)] * 50 + [time_processes(_DECODE, 0.02, 3, 3)] * 50
    name = "100 values: 50 of 400 items, 50 of 3 processes at σ 2 %"
    shares = []
    for what, gain in (("A/A", 0.0), ("every other one improved", -0.10)):
        rng = tries.stream(f"many {what}")
        harms = [gain if i % 2 else 0.0 for i in range(len(cells))]
        alarms = unadjusted = 0
        for _ in range(tries.repeats):
            found = _compare_many(cells, rng, harms)
            alarms += any(verdict == "FAIL" for verdict, _ in found)
            unadjusted += any(verdict == "FAIL" or before for verdict, before in found)
        shares += [
            Share("compare", name, f"{what}: any FAIL", alarms, tries.repeats, at_most=0.05),
            Share("compare", name, f"{what}: any FAIL, unadjusted", unadjusted, tries.repeats),
        ]
    return [*shares, _check_discoveries(tries.stream("discoveries"), max(1, tries.repeats // 4))]


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


def _check_tasks(tries: Tries) -> list[Share]:
    """Nights on which any of 112 tasks fails its threshold, though none is worse."""
    world, rng, alarms = answer_items(300, 0.04), tries.stream("tasks"), 0
    for _ in range(tries.repeats):
        draws = [world.begin(rng)[1] for _ in range(112)]
        blessed, night = (
            [rename(draw(0.0), f"m{i}") for i, draw in enumerate(draws)] for _ in "ab"
        )
        alarms += any(v.verdict == "FAIL" for v in judge_blessed([blessed], night))
    name = f"112 tasks: {world.name}"
    judge = thresholds_judge(1).name
    return [Share(judge, name, "A/A: any FAIL in a night", alarms, tries.repeats, at_most=0.05)]


def _ask(judge: Judge, world: World, harm: float, rng: Generator) -> Judged:
    return judge.ask(world, rng, harm)


def _fails(found: list[Judged]) -> int:
    return sum(one.outcome == "FAIL" for one in found)
