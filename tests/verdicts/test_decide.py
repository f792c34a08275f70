"""decide: the one rule by which a harm becomes a verdict, and what it says where it is open."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2
from statsmodels.stats.multitest import multipletests

from harness.descriptions import ValueSpec
from harness.records.record import Value
from harness.records.values import to_value
from harness.statistics.estimates import (
    NORMAL_95,
    Processes,
    positive_interval,
    t_quantile,
    welch_ratio_interval,
)
from harness.statistics.power import items_to_pass, smallest_detectable
from harness.statistics.shares import paired_difference
from harness.verdicts.decide import (
    Harm,
    Question,
    adjust_for_many,
    benjamini_hochberg,
    bounds_of,
    decide,
    harm_of,
    judge_harm,
    one_sided,
)

SPEED = ValueSpec("tokens/s", "higher", "", sampled="processes")
SPEEDUP = ValueSpec("", "higher", "", paired=True, neutral=1.0, sampled="processes")
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
    ],
)
def test_a_change_passes_fails_or_is_left_open(
    harm: float, lower: float, upper: float, margin: float, outcome: str
) -> None:
    assert judge_harm(harm, lower, upper, margin) == outcome
    found = decide(
        Harm(harm, (lower, upper), stderr=0.01, sampled="items", n=60), margin, largest_p=0.5
    )
    assert found.outcome == outcome
    assert bool(found.why) is (outcome == "INCONCLUSIVE")


@pytest.mark.parametrize(
    ("lower", "upper", "margin", "outcome"),
    [
        (-0.01, 0.02, 0.02, "PASS"),
        (0.001, 0.06, 0.02, "INCONCLUSIVE"),  # harm, but perhaps less than the limit allows
        (0.02, 0.06, 0.02, "INCONCLUSIVE"),
        (math.nextafter(0.02, 1), 0.06, 0.02, "FAIL"),
        (-0.6, -0.4, -0.3, "PASS"),  # a gain is demanded
        (-0.25, 0.0, -0.3, "FAIL"),
        (-0.35, -0.15, -0.3, "INCONCLUSIVE"),
    ],
)
def test_a_limit_fails_only_where_the_truth_is_surely_beyond_it(
    lower: float, upper: float, margin: float, outcome: str
) -> None:
    harm = Harm((lower + upper) / 2, (lower, upper), stderr=0.01, sampled="items", n=60)
    assert judge_harm(harm.estimate, lower, upper, margin, "limit") == outcome
    assert decide(harm, margin, "limit", largest_p=0.051).outcome == outcome


def test_a_limit_among_many_needs_a_smaller_p_by_hand() -> None:
    """A bound 1.6449 standard errors below, 3 of them beyond the limit: p = 1 - Φ(3) = 0.00135."""
    harm = Harm(3.0, (3 - NORMAL_95, 3 + NORMAL_95), stderr=1.0, sampled="items", n=100)
    found = decide(harm, 0.0, "limit", largest_p=0.05 / 40)
    assert (found.outcome, found.p) == ("INCONCLUSIVE", pytest.approx(0.0013499, rel=1e-3))
    assert "among this many limits" in found.why
    assert decide(harm, 0.0, "limit", largest_p=0.05 / 30).outcome == "FAIL"


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
        (0.02, "", "FAIL", ""),
        (math.nextafter(0.02, 1), "", "INCONCLUSIVE", "by chance (p = 0.02)"),
        (0.001, "a busy machine", "INCONCLUSIVE", "flagged: a busy machine"),
        (None, "", "FAIL", ""),
    ],
)
def test_chance_or_a_doubt_leaves_a_fail_open(
    p: float | None, doubt: str, outcome: str, why: str
) -> None:
    harm = Harm(0.05, (0.01, 0.09), stderr=0.02, sampled="processes", n=6, p=p)
    found = decide(harm, 0.03, doubts={"FAIL": doubt})
    assert found.outcome == outcome
    assert why in found.why
    good = Harm(0.0, (-0.01, 0.01), p=0.9)
    assert decide(good, 0.03, doubts={"FAIL": "busy"}).outcome == "PASS"
    assert decide(good, 0.03, doubts={"PASS": "busy"}).why == "flagged: busy"


def test_an_open_verdict_says_how_many_samples_would_decide_by_hand() -> None:
    """Items: (1.6449 + 0.8416)·SE = 0.04973 must shrink to 0.01: 100·4.973² = 2,473.1."""
    harm = Harm(0.0, (-0.03, 0.03), stderr=0.02, sampled="items", n=100)
    items = decide(harm, 0.01)
    flipped = decide(replace(harm, flips=0.08), 0.01)
    assert flipped.enough == items_to_pass(0.01, 0.08)
    assert "100 items do not decide it; about 2,474 would, in 4 of 5" in items.why
    assert items.why.endswith("if nothing changed")
    # Beyond 0 by (2.0537 + 0.8416)·SE, and beyond the margin by 0.8416·SE, which needs more.
    worse = Harm(0.012, (-0.02, 0.04), stderr=0.02, sampled="items", n=100, flips=0.1)
    assert "about 7,084 would, in 4 of 5 runs, if it is as it seems" in decide(worse, 0.01).why
    limit = Harm(0.005, (-0.03, 0.03), stderr=0.02, sampled="items", n=100, flips=0.1)
    assert "about 9,893 would, in 4 of 5 runs, if it is as it" in decide(limit, 0.01, "limit").why
    at_the_limit = Harm(1.0, (-1.0, 3.0), 1.0, 5, "processes", 6)
    assert decide(at_the_limit, 1.0, "limit").why == "6 processes do not decide it"
    runs = decide(Harm(0.5, (-0.4, 1.4), 1.0, 3, "runs", 4), 1.0)
    assert "spread is that of 4 blessed runs" in runs.why
    wide = decide(Harm(0.5, (-1.5, 2.5), 1.0, 3, "runs", 4), 1.0)
    assert "this machine cannot hold this margin" in wide.why


@pytest.mark.parametrize("df", [4.0, 30.0, math.inf])
@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
def test_a_smallest_detectable_harm_is_seen_four_times_in_five(margin: float, df: float) -> None:
    """Drawn with a standard error that is estimated each time, as in the verdict itself."""
    rng = np.random.default_rng(4)
    harm = smallest_detectable(math.sqrt(chi2.median(df) / df) if df < 1e9 else 1.0, margin, df)
    drawn = rng.normal(harm, 1.0, 20_000)
    errors = np.sqrt(rng.chisquare(df, 20_000) / df) if df < 1e9 else np.ones(20_000)
    seen = (drawn > margin) & (drawn > t_quantile(0.95, df) * errors)
    assert seen.mean() == pytest.approx(0.8, abs=0.012)


def test_a_night_that_is_not_known_has_to_be_cleared_by_hand() -> None:
    """SE 1 and a night of 2 on top: sqrt(5) = 2.236; 2.054 of them are 4.59."""

    def judged(estimate: float) -> str:
        harm = Harm(
            estimate, (estimate - 1.7, estimate + 1.7), 1.0, sampled="processes", n=6, night=2.0
        )
        found = decide(harm, 1.0)
        assert ("both in one night" in found.why) is (found.outcome == "INCONCLUSIVE")
        return found.outcome

    assert [judged(x) for x in (4.58, 4.60)] == ["INCONCLUSIVE", "FAIL"]
    # The upper bound is hypot(1.7, 1.645·2) = 3.70 beyond the estimate; 1 is allowed.
    assert [judged(x) for x in (-2.71, -2.69, -0.71)] == ["PASS", "INCONCLUSIVE", "INCONCLUSIVE"]


@pytest.mark.parametrize(("n", "known"), [(19, False), (20, True)])
def test_few_chunks_do_not_say_what_they_detect(n: int, known: bool) -> None:
    value = Value(value=1.0, stderr=0.01, n=n, bounds=(0.98, 1.02))
    found = decide(harm_of(value, RATIO, 1, 1.0), 0.005)
    assert (found.smallest_detectable is not None) is known


def test_what_a_limit_detects_is_beyond_it_by_hand() -> None:
    """1.6449 + 0.8416 standard errors beyond, wherever the limit is."""
    for limit in (-0.3, 0.0, 0.7):
        harm = Harm(limit, (limit - 0.1, limit + 0.1), stderr=0.05, sampled="items", n=100)
        found = decide(harm, limit, "limit", largest_p=0.05)
        assert found.smallest_detectable == pytest.approx(limit + 2.4865 * 0.05, rel=1e-3)


def draw_items(rng: np.random.Generator, n: int, drop: float, flips: float) -> Harm:
    """The drop of a share, of n items of which ``flips`` differ."""
    shares = [(flips + drop) / 2, (flips - drop) / 2, 1 - flips]
    lost, won, _ = (int(count) for count in rng.multinomial(n, shares))
    found = paired_difference(lost, won, n)
    bounds, share = (found.lower, found.upper), (lost + won) / n
    p = one_sided(found.p, found.value)
    return Harm(found.value, bounds, found.stderr or 1e-9, n - 1, "items", n, share, p)


@pytest.mark.parametrize(
    ("question", "margin", "largest_p"), [("limit", 0.02, 0.05), ("change", 0.01, 0.02)]
)
@pytest.mark.parametrize(
    ("drop", "n", "flips"),
    [(0.0, 300, 0.08), (0.01, 600, 0.08), (0.03, 300, 0.08), (0.005, 500, 0.02)],
)
def test_the_named_number_of_items_decides_four_times_in_five(
    question: Question, margin: float, largest_p: float, drop: float, n: int, flips: float
) -> None:
    """Where the truth is what the sentence assumes. Of 1,500 draws each kind decides 74 to 83 %."""
    rng = np.random.default_rng(0)
    decided = []
    for _ in range(600):
        seen = draw_items(rng, n, drop, flips)
        enough = decide(seen, margin, question, largest_p).enough
        if enough is None:
            continue
        as_it_seems = question == "limit" or seen.estimate > margin
        truth = seen.estimate if as_it_seems else min(0.0, seen.estimate)
        again = draw_items(rng, enough, truth, max(seen.flips or 0.0, abs(truth)))
        decided.append(decide(again, margin, question, largest_p).outcome != "INCONCLUSIVE")
    assert len(decided) > 50
    assert np.mean(decided) >= 0.65


# What a value says about its harm


def test_a_harm_is_a_distance_in_the_bad_direction() -> None:
    value = Value(value=0.9, stderr=0.01, n=6, interval=(0.87, 0.93), bounds=(0.88, 0.92), p=0.01)
    slower = harm_of(value, SPEEDUP, -1, 1.0)
    assert slower.estimate == pytest.approx(0.1)
    assert slower.bounds == pytest.approx((0.08, 0.12))
    assert (slower.stderr, slower.n, slower.p) == (0.01, 6, 0.005)
    faster = harm_of(value, SPEEDUP, 1, 1.0)
    assert (faster.estimate, faster.p) == (pytest.approx(-0.1), 0.995)
    # The p-value is of no difference: it says nothing of another number, or of a plain mean.
    assert harm_of(value, SPEEDUP, -1, 0.95).p is None
    assert harm_of(value, SPEED, -1, 1.0).p is None


def test_degrees_of_freedom_are_those_of_the_estimate() -> None:
    """Welch's of two pairs by hand; Student's n - 1 where a value says nothing else."""
    a, b = (Processes(mean, 0.01, 2) for mean in (1.0, 1.1))
    value = to_value(SPEEDUP, welch_ratio_interval(a, b))
    assert value.df == pytest.approx(2)
    assert harm_of(value, SPEEDUP, -1, 1.0).df == pytest.approx(2)
    plain = Value(value=100.0, stderr=0.01, n=6, bounds=(99, 101))
    assert harm_of(plain, SPEED, -1, 100.0).df == 5
    skewed = positive_interval([1.0, 3.0] * 5, [1] * 10)
    assert skewed is not None
    assert harm_of(to_value(CHUNKS, skewed), CHUNKS, 1, 2.0).df == pytest.approx(3)


def test_the_flip_rate_is_what_the_error_of_a_difference_comes_from() -> None:
    """SE² = (f - D²)/n with f = 8 %, D = 1 %, n = 1,000."""
    stderr = math.sqrt((0.08 - 0.0001) / 1000)
    value = Value(value=0.01, stderr=stderr, n=1000, bounds=(-0.005, 0.025))
    assert harm_of(value, DROP, 1, 0.0).flips == pytest.approx(0.08)
    assert harm_of(value, RATIO, 1, 1.0).flips is None


def test_bounds_are_those_stored_or_student_s_or_none_by_hand() -> None:
    """t(0.95, 9) = 1.833113."""
    assert bounds_of(Value(value=3.0, bounds=(1.0, 2.0)), SPEED) == (1.0, 2.0)
    assert bounds_of(Value(value=7), BYTES) == (7, 7)
    low, high = bounds_of(Value(value=5.0, stderr=0.1, n=10), CHUNKS) or (0, 0)
    assert (low, high) == pytest.approx((5 - 0.1833113, 5 + 0.1833113))
    for value in (Value(value=5.0, n=50), Value(value=5.0, stderr=0.1, n=9)):
        assert bounds_of(value, CHUNKS) is None
    assert bounds_of(Value(value=5.0, stderr=0.1, n=50), SPEED) is None  # rounds are no sample


# Many comparisons


def test_adjusted_p_values_are_statsmodels() -> None:
    ps = np.random.default_rng(2).uniform(0, 1, 50) ** 2
    expected = multipletests(ps, method="fdr_bh")[1]
    assert benjamini_hochberg(ps.tolist()) == pytest.approx(expected.tolist())
    assert benjamini_hochberg([]) == []


def test_a_fail_among_many_needs_an_adjusted_p_value_of_two_percent() -> None:
    alone, many = adjust_for_many([0.015]), adjust_for_many([0.015] + [0.9] * 9)
    assert alone == [(0.015, "")]
    assert many[0][0] == pytest.approx(0.15)
    assert "among this many comparisons" in many[0][1]


def test_what_improved_does_not_make_a_harm_look_surer() -> None:
    """One-sided p-values: 20 clear gains are near 1, and two-sided they would be near 0."""
    alone = adjust_for_many([0.004] + [0.5] * 20)
    beside_gains = adjust_for_many([0.004] + [0.99999] * 20)
    assert alone[0][1] == beside_gains[0][1] != ""
