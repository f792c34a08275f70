"""The calibration: counts are judged rightly, worlds are what they say, a bad judge shows."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.records.values import find_spec
from harness.suite.read import load_suite

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from verdicts.judges import (
    COMPARE,
    COMPARE_NIGHTS,
    Judge,
    Judged,
    compare_once,
    limit_judge,
    thresholds_judge,
)
from verdicts.limited import LIMITS, Limited
from verdicts.machines import MACHINES, watch_nights
from verdicts.share import Share, format_shares
from verdicts.shipped import SUITES, check_shipped
from verdicts.simulated import Tries, check_judge, check_pooling
from verdicts.worlds import (
    World,
    answer_items,
    diverge,
    read_chunks,
    take_memory,
    time_processes,
    time_rounds,
)

DECODE = "decode_tokens_per_s[1]"


@pytest.mark.parametrize(
    ("count", "target", "verdict"),
    [
        (40, {"at_most": 0.05}, "met"),
        (52, {"at_most": 0.05}, "at it"),  # of 1,000, with a standard error of 0.7 points
        (70, {"at_most": 0.05}, "NOT MET"),
        (810, {"at_least": 0.80}, "met"),
        (790, {"at_least": 0.80}, "at it"),
        (760, {"at_least": 0.80}, "NOT MET"),
        (1, {"at_most": 0.0}, "NOT MET"),
        (999, {"at_least": 1.0}, "NOT MET"),
        (500, {}, ""),
    ],
)
def test_a_target_is_missed_where_chance_does_not_explain_it(
    count: int, target: dict[str, float], verdict: str
) -> None:
    share = Share("compare", "x", "A/A: FAIL", count, 1000, **target)
    assert share.verdict == verdict
    assert share.describe()["verdict"] == verdict
    assert f"{count / 1000:.1%}" in format_shares([share])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "harm"),
    [
        (answer_items(1000, 0.02), 0.03),
        (read_chunks(40, 0.01), 0.03),
        (read_chunks(40, 0.01, heavy=True, correlation=0.42), 0.03),
        (diverge(40, 0.05), 0.02),
        (time_processes(DECODE, 0.01, 4, 4), 0.10),
        (take_memory(1 << 30, 1 << 20), 0.10),
    ],
    ids=lambda given: given.name if isinstance(given, World) else "",
)
def test_a_world_is_worse_by_the_harm_that_it_is_given(world: World, harm: float) -> None:
    rng = np.random.default_rng(0)
    for given in (0.0, harm):
        found = [compare_once(world, rng, given)[0].harm for _ in range(200)]
        spread = np.std(found) / len(found) ** 0.5
        assert abs(np.mean(found) - given) < 4 * spread + 1e-3


def test_the_same_seed_gives_the_same_counts_in_any_order() -> None:
    first, second = answer_items(200, 0.08), time_processes(DECODE, 0.02, 3, 3)
    forwards, backwards = Tries(20, 1), Tries(20, 1)
    there = [check_judge(forwards, COMPARE, world) for world in (first, second)]
    back = [check_judge(backwards, COMPARE, world) for world in (second, first)]
    assert there == back[::-1]


@pytest.mark.slow
def test_processes_as_samples_hold_and_pooled_rounds_are_seen_to_fail() -> None:
    alone, pooled = check_pooling(Tries(150, 0))
    assert alone.verdict in ("met", "at it")
    assert pooled.count > 0.5 * pooled.n


@pytest.mark.slow
def test_a_broken_judge_misses_its_target() -> None:
    """The same comparison, given every round as if it were a process."""
    tries = Tries(150, 0)
    sound, broken = (
        check_judge(tries, COMPARE, time_rounds(0.05, 3, 40, pooled))[0] for pooled in (False, True)
    )
    assert sound.verdict in ("met", "at it")
    assert broken.verdict == "NOT MET"


def test_a_judge_that_never_fails_misses_its_target() -> None:
    blind = Judge("blind", lambda *_: Judged("PASS", 0.05))
    alarms, power = check_judge(Tries(50, 0), blind, answer_items(100, 0.02))
    assert (alarms.verdict, power.verdict) == ("met", "NOT MET")


def test_thresholds_are_asked_in_shares_of_the_blessed_value() -> None:
    world = time_processes(DECODE, 0.01, 3, 3)
    found = thresholds_judge(3).ask(world, np.random.default_rng(0), 0.2)
    assert found.outcome == "FAIL"
    assert found.smallest is not None
    assert 0.03 < found.smallest < 0.2


@pytest.mark.slow
def test_three_nights_raise_few_alarms_and_see_a_slowdown() -> None:
    """The full simulation, with 20 nights instead of 1,000."""
    steady, *_, unsteady, _, _, together = (
        {share.what: share for share in watch_nights(machine, 3, 20, np.random.default_rng(5))}
        for machine in MACHINES
    )
    for night in (steady, unsteady, together):
        assert night["nothing new: any FAIL in a night"].count <= 2
        assert night["half improved: any FAIL in a night"].count <= 2
    assert steady["one 5 % slower: FAIL"].count >= 16
    assert unsteady["one 5 % slower: FAIL"].count < 10


def test_one_night_of_processes_alone_would_raise_alarms_on_an_unsteady_machine() -> None:
    """The world is as unkind as it says: nights differ by 2 %, processes of a night by 0.5 %."""
    rng = np.random.default_rng(6)
    [machine] = [one for one in MACHINES if "2 % each" in one.name]
    nights = machine.begin(rng)
    first, later = next(nights), next(nights)
    assert np.std((later - first).mean(axis=1)) == pytest.approx(0.02 * 2**0.5, rel=0.3)
    assert np.std(first - first.mean(axis=1, keepdims=True)) < 0.006


@pytest.mark.parametrize("judge", [COMPARE_NIGHTS, thresholds_judge(1)], ids=lambda one: one.name)
def test_a_slowdown_seldom_passes_where_nights_are_not_known(judge: Judge) -> None:
    """Nights differ by 2 %, processes by 0.5 %. With bounds of processes 41 % and 18 % passed."""
    world = time_processes(DECODE, 0.005, 3, 3, night=0.02)
    for harm, most in ((0.03, 0.05), (0.05, 0.01)):
        found = Tries(300, 4).ask(judge.name, lambda rng, h=harm: judge.ask(world, rng, h))
        passed = sum(one.outcome == "PASS" for one in found)
        assert passed <= 300 * most + 3 * math.sqrt(300 * most * (1 - most))


@pytest.mark.parametrize("limited", LIMITS[::4], ids=lambda one: f"{one.metric} {one.bound}")
def test_a_truth_within_its_limit_seldom_fails_and_one_beyond_seldom_passes(
    limited: Limited,
) -> None:
    judge = limit_judge(limited.metric, limited.side, limited.bound)
    for part, wrong in ((0.9, "FAIL"), (1.1, "PASS")):
        world, harm = limited.make(part)
        found = Tries(40, 2).ask(judge.name, lambda rng, w=world, h=harm: judge.ask(w, rng, h))
        assert sum(one.outcome == wrong for one in found) <= 6


def test_every_limit_and_task_of_the_shipped_suites_has_a_world() -> None:
    judged = {path.name for path in SUITES}
    for path in SUITES:
        assert check_shipped(Tries(1, 0), path)
    others = [path for path in SUITES[0].parent.glob("*.yaml") if path.name not in judged]
    sampled = {
        spec.sampled
        for path in others
        for limit in load_suite(path).limits
        if (spec := find_spec(limit.family, limit.value))
    }
    assert sampled == {None}  # speed and memory alone, which are exact or have no limit
