"""decide: the one rule by which a harm becomes a verdict, and what it says where it is open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from harness.descriptions import ValueSpec
from harness.records.record import Value
from harness.statistics.power import smallest_detectable
from harness.verdicts.decide import (
    Harm,
    adjust_for_many,
    benjamini_hochberg,
    bounds_of,
    decide,
    harm_of,
    judge_harm,
)

SPEED = ValueSpec("tokens/s", "higher", "", sampled="processes")
CHUNKS = ValueSpec("", "lower", "", sampled="items")
RATIO = ValueSpec("", "lower", "", paired=True, of="ppl", neutral=1.0, sampled="items")
DROP = ValueSpec("", "lower", "", paired=True, of="acc", sampled="items")
BYTES = ValueSpec("bytes", "lower", "")


@pytest.mark.parametrize(
    ("harm", "lower", "upper", "margin", "outcome"),
    [
        (0.0, -0.01, 0.01, 0.02, "PASS"),
        (0.0, -0.03, 0.02, 0.02, "PASS"),
        (0.0, -0.03, math.nextafter(0.02, 1), 0.02, "INCONCLUSIVE"),
        (0.03, 0.001, 0.06, 0.02, "FAIL"),
        (0.03, 0.0, 0.06, 0.02, "INCONCLUSIVE"),  # perhaps no harm at all
        (0.02, 0.01, 0.03, 0.02, "INCONCLUSIVE"),  # as much as the margin, and not more
        (-0.5, -0.6, -0.4, -0.3, "PASS"),  # a gain is demanded
        (-0.1, -0.2, 0.0, -0.3, "FAIL"),
        (-0.25, -0.35, -0.15, -0.3, "INCONCLUSIVE"),
    ],
)
def test_a_verdict_is_passed_failed_or_left_open(
    harm: float, lower: float, upper: float, margin: float, outcome: str
) -> None:
    assert judge_harm(harm, lower, upper, margin) == outcome
    found = decide(Harm(harm, (lower, upper), stderr=0.01, sampled="processes", n=6), margin)
    assert found.outcome == outcome
    assert bool(found.why) is (outcome == "INCONCLUSIVE")


@pytest.mark.parametrize(("harm", "outcome"), [(5.0, "PASS"), (math.nextafter(5, 6), "FAIL")])
def test_an_exact_quantity_is_compared_plainly(harm: float, outcome: str) -> None:
    found = decide(Harm(harm, (harm, harm)), 5.0)
    assert (found.outcome, found.why, found.smallest_detectable) == (outcome, "", None)


@pytest.mark.parametrize(
    ("sampled", "advice"), [("processes", "measure in 3 or more"), ("items", "take a longer text")]
)
def test_an_unknown_spread_decides_nothing_and_says_what_to_measure(
    sampled: str, advice: str
) -> None:
    found = decide(Harm(9.0, None, sampled=sampled), 1.0)  # type: ignore[arg-type]
    assert found.outcome == "INCONCLUSIVE"
    assert advice in found.why


@pytest.mark.parametrize(
    ("p", "doubt", "outcome", "why"),
    [
        (0.03, "", "FAIL", ""),
        (math.nextafter(0.03, 1), "", "INCONCLUSIVE", "by chance (p = 0.03)"),
        (0.001, "a busy machine", "INCONCLUSIVE", "flagged: a busy machine"),
        (None, "", "FAIL", ""),
    ],
)
def test_chance_or_a_doubt_leaves_a_fail_open(
    p: float | None, doubt: str, outcome: str, why: str
) -> None:
    harm = Harm(0.05, (0.01, 0.09), stderr=0.02, sampled="processes", n=6, p=p)
    found = decide(harm, 0.03, largest_p=0.03, doubt=doubt)
    assert found.outcome == outcome
    assert why in found.why
    passed = decide(Harm(0.0, (-0.01, 0.01), p=0.9), 0.03, largest_p=0.03, doubt="busy")
    assert passed.outcome == "PASS"  # neither is asked of a PASS


def test_an_open_verdict_says_how_many_samples_would_decide() -> None:
    """Items: z(0.95)·SE = 0.0329 must shrink to 0.01: n·3.29² = 1,083 of 100. Processes: the
    bound 2 away must come within 0.5 of the harm: 16 times as many."""
    items = decide(Harm(0.0, (-0.03, 0.03), stderr=0.02, sampled="items", n=100, flips=0.1), 0.01)
    assert items.why == "100 chunks or items do not decide it: about 1,083 would"
    processes = decide(Harm(0.5, (-1.5, 2.5), 1.0, 5, "processes", 6), 1.0)
    assert processes.why == "6 processes do not decide it: about 96 would"
    at_the_margin = decide(Harm(1.0, (-1.0, 3.0), 1.0, 5, "processes", 6), 1.0)
    assert at_the_margin.why == "6 processes do not decide it"
    runs = decide(Harm(0.5, (-1.5, 2.5), 1.0, 3, "runs", 4), 1.0)
    assert "spread is that of 4 blessed runs" in runs.why


def test_a_smallest_detectable_harm_is_seen_four_times_in_five() -> None:
    """Drawn from a normal of known error, with a margin and without."""
    rng = np.random.default_rng(4)
    for margin in (0.0, 1.0, 5.0):
        harm = smallest_detectable(1.0, margin, power=0.8)
        drawn = rng.normal(harm, 1.0, 20_000)
        seen = [judge_harm(h, h - 1.6448536, h + 1.6448536, margin) == "FAIL" for h in drawn]
        assert np.mean(seen) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("n", "known"), [(19, False), (20, True)])
def test_few_chunks_do_not_say_what_they_detect(n: int, known: bool) -> None:
    value = Value(value=1.0, stderr=0.01, n=n, bounds=(0.98, 1.02))
    found = decide(harm_of(value, RATIO, 1, 1.0), 0.005)
    assert (found.smallest_detectable is not None) is known


def test_where_a_gain_is_demanded_the_distance_from_it_is_what_can_be_detected() -> None:
    harm = Harm(-0.5, (-0.6, -0.4), stderr=0.05, df=math.inf, sampled="processes", n=6)
    with_gain, without = decide(harm, -0.3), decide(harm, 0.0)
    assert with_gain.smallest_detectable == pytest.approx((without.smallest_detectable or 0) - 0.3)


# What a value says about its harm


def test_a_harm_is_a_distance_in_the_bad_direction() -> None:
    value = Value(value=0.9, stderr=0.01, n=6, interval=(0.87, 0.93), bounds=(0.88, 0.92), p=0.01)
    slower = harm_of(value, SPEED, -1, 1.0)
    assert slower.estimate == pytest.approx(0.1)
    assert slower.bounds == pytest.approx((0.08, 0.12))
    assert (slower.stderr, slower.n, slower.p) == (0.01, 6, 0.01)
    assert harm_of(value, SPEED, 1, 1.0).estimate == pytest.approx(-0.1)


def test_degrees_of_freedom_come_from_the_interval_by_hand() -> None:
    """t(0.975, 5) = 2.570582 standard errors to one side; on the logarithm for a ratio."""
    reach = 2.5705818366147395 * 0.01
    plain = Value(value=100.0, stderr=0.01, n=6, interval=(0, 100 + reach), bounds=(99, 101))
    assert harm_of(plain, SPEED, -1, 100.0).df == pytest.approx(5)
    ratio = Value(value=1.0, stderr=0.01, n=6, interval=(0, math.exp(reach)), bounds=(0.98, 1.02))
    assert harm_of(ratio, RATIO, 1, 1.0).df == pytest.approx(5)


def test_the_flip_rate_is_what_the_error_of_a_difference_comes_from() -> None:
    """SE² = (f - D²)/n with f = 8 %, D = 1 %, n = 1,000."""
    stderr = math.sqrt((0.08 - 0.0001) / 1000)
    value = Value(value=0.01, stderr=stderr, n=1000, bounds=(-0.005, 0.025))
    assert harm_of(value, DROP, 1, 0.0).flips == pytest.approx(0.08)
    assert harm_of(value, RATIO, 1, 1.0).flips is None


def test_bounds_are_those_stored_or_student_s_or_none_by_hand() -> None:
    """t(0.95, 4) = 2.131847."""
    assert bounds_of(Value(value=3.0, bounds=(1.0, 2.0)), SPEED) == (1.0, 2.0)
    assert bounds_of(Value(value=7), BYTES) == (7, 7)
    low, high = bounds_of(Value(value=5.0, stderr=0.1, n=5), CHUNKS) or (0, 0)
    assert (low, high) == pytest.approx((5 - 0.2131847, 5 + 0.2131847))
    for value in (Value(value=5.0, n=5), Value(value=5.0, stderr=0.1, n=1)):
        assert bounds_of(value, CHUNKS) is None
    assert bounds_of(Value(value=5.0, stderr=0.1, n=5), SPEED) is None  # rounds are no sample


# Many comparisons


def test_adjusted_p_values_are_statsmodels() -> None:
    ps = np.random.default_rng(2).uniform(0, 1, 50) ** 2
    expected = multipletests(ps, method="fdr_bh")[1]
    assert benjamini_hochberg(ps.tolist()) == pytest.approx(expected.tolist())
    assert benjamini_hochberg([]) == []


def test_a_fail_among_many_needs_an_adjusted_p_value_of_three_percent() -> None:
    alone, many = adjust_for_many([0.02]), adjust_for_many([0.02] + [0.9] * 9)
    assert alone == [(0.02, "")]
    assert many[0][0] == pytest.approx(0.2)
    assert "among this many comparisons" in many[0][1]
    [(q, why)] = adjust_for_many([0.05])
    assert (q, why) == (0.05, "equal runs differ this much by chance (p = 0.05)")
