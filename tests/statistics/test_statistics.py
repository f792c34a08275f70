"""statistics: intervals against scipy's own and against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from harness.statistics.estimates import (
    Processes,
    clustered_interval,
    clustered_ratio,
    geometric_mean_interval,
    paired_ratio_interval,
    welch_ratio_interval,
)
from harness.statistics.power import (
    items_needed,
    samples_to_decide,
    smallest_detectable,
    smallest_detectable_drop,
)
from harness.statistics.shares import (
    flip_rate_interval,
    mcnemar_midp,
    paired_difference,
    share_interval,
)


def test_two_samples_by_hand() -> None:
    """ln 1 and ln e²: mean 1, s = √2, s/√2 = 1, t(0.975, 1) = 12.7062."""
    found = geometric_mean_interval([1.0, math.exp(2)])
    assert found.value == pytest.approx(math.e)
    assert found.low == pytest.approx(math.exp(1 - 12.706204736))
    assert found.high == pytest.approx(math.exp(1 + 12.706204736))


@pytest.mark.parametrize("count", [2, 3, 6, 40])
def test_the_interval_is_scipy_s_on_logarithms(count: int) -> None:
    samples = np.random.default_rng(count).lognormal(3, 0.2, count)
    logs = np.log(samples)
    found = geometric_mean_interval(samples.tolist())
    assert found.value == pytest.approx(stats.gmean(samples))
    for level, ends in ((0.95, (found.low, found.high)), (0.9, (found.lower, found.upper))):
        low, high = stats.t.interval(level, count - 1, logs.mean(), stats.sem(logs))
        assert ends == pytest.approx((math.exp(low), math.exp(high)))


def test_a_ratio_is_scipy_s_paired_test_turned_round() -> None:
    """The interval leaves 1 out exactly where the paired t test says p < 0.05."""
    rng = np.random.default_rng(1)
    for effect in np.linspace(0, 0.2, 21):
        a = rng.lognormal(0, 0.1, 8)
        b = a * rng.lognormal(effect, 0.1, 8)
        found = paired_ratio_interval(a.tolist(), b.tolist())
        p = stats.ttest_rel(np.log(b), np.log(a)).pvalue
        assert (found.low > 1 or found.high < 1) == (p < 0.05)


def test_a_drift_that_both_sides_share_cancels() -> None:
    a = [1.0, 2.0, 4.0, 8.0]
    found = paired_ratio_interval(a, [1.1 * x for x in a])
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))


def test_equal_samples_have_an_interval_without_width() -> None:
    found = geometric_mean_interval([5.0, 5.0, 5.0])
    assert (found.value, found.low, found.high) == pytest.approx((5.0, 5.0, 5.0))


@pytest.mark.parametrize("samples", [[], [1.0], [1.0, 0.0], [1.0, -2.0], [1.0, math.nan]])
def test_what_has_no_interval_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="found"):
        geometric_mean_interval(samples)


@pytest.mark.parametrize(("a", "b"), [([1.0, 2.0], [1.0]), ([0.0, 1.0], [1.0, 1.0]), ([1], [1])])
def test_pairs_must_be_pairs_of_positive_numbers(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="found"):
        paired_ratio_interval(a, b)


# Processes that were not measured in pairs


def processes(samples: list[float]) -> Processes:
    logs = np.log(samples)
    spread = float(logs.std(ddof=1)) if len(logs) > 1 else None
    return Processes(math.exp(logs.mean()), spread, len(logs))


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 2), (3, 6), (6, 3), (20, 20)])
def test_two_groups_of_processes_are_compared_as_scipy_does(n_a: int, n_b: int) -> None:
    rng = np.random.default_rng(n_a * 10 + n_b)
    a, b = rng.lognormal(0, 0.01, n_a), rng.lognormal(0.05, 0.04, n_b)
    theirs = stats.ttest_ind(np.log(b), np.log(a), equal_var=False)
    found = welch_ratio_interval(processes(a.tolist()), processes(b.tolist()))
    assert found.value == pytest.approx(stats.gmean(b) / stats.gmean(a))
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(interval[0]), math.exp(interval[1])))
    bounds = theirs.confidence_interval(0.90)
    assert (found.lower, found.upper) == pytest.approx((math.exp(bounds[0]), math.exp(bounds[1])))
    assert found.p == pytest.approx(theirs.pvalue)


def test_a_single_process_is_a_prediction_by_hand() -> None:
    """ln of 1, e, e²: mean 1, s = 1; SE = 1·√(1 + 1/3), t(0.975, 2) = 4.302653."""
    known = processes([1.0, math.e, math.e**2])
    found = welch_ratio_interval(known, processes([math.e]))
    assert found.value == pytest.approx(1.0)
    assert found.high == pytest.approx(math.exp(4.302652729911275 * math.sqrt(4 / 3)))
    with pytest.raises(ValueError, match="found 1 and 1"):
        welch_ratio_interval(processes([1.0]), processes([2.0]))


# Chunks of a text


def test_equal_chunks_have_the_interval_of_scipy_s_mean() -> None:
    sums = np.random.default_rng(3).normal(10, 2, 12)
    found = clustered_interval(sums.tolist(), [4] * 12)
    low, high = stats.t.interval(0.95, 11, sums.mean() / 4, stats.sem(sums) / 4)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(sums, 0).pvalue)


def test_a_ratio_of_perplexities_by_hand() -> None:
    """Differences of 0.2 and 0.4 nats over 2 tokens each: mean 0.15 a token, SE 0.05."""
    found = clustered_ratio([2.2, 3.4], [2.0, 3.0], [2, 2])
    assert found is not None
    assert found.value == pytest.approx(math.exp(0.15))
    assert found.low == pytest.approx(math.exp(0.15 - 12.706204736 * 0.05))
    assert found.stderr == pytest.approx(math.exp(0.15) * 0.05)
    assert clustered_ratio([2.2], [2.0], [2]) is None
    assert clustered_interval([1.0], [1]) is None


def test_chunks_of_one_topic_widen_the_interval_and_tokens_would_not() -> None:
    """Of 200 texts with dependent tokens, 95 % of the clustered intervals hold the truth."""
    rng = np.random.default_rng(5)
    clustered = naive = 0
    for _ in range(400):
        tokens = rng.normal(0, 1, (30, 1)) + rng.normal(0, 1, (30, 50))
        found = clustered_interval(tokens.sum(axis=1).tolist(), [50] * 30)
        assert found is not None
        clustered += found.low <= 0 <= found.high
        naive += abs(tokens.mean()) <= 1.96 * tokens.std() / math.sqrt(tokens.size)
    assert clustered / 400 == pytest.approx(0.95, abs=0.03)
    assert naive / 400 < 0.6


# Items


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 0), (3, 9), (20, 10), (300, 250)])
def test_mid_p_is_the_exact_test_less_half_the_observed_table(lost: int, won: int) -> None:
    table = [[10, lost], [won, 10]]
    exact = mcnemar(table, exact=True).pvalue
    half = stats.binom.pmf(min(lost, won), lost + won, 0.5)
    assert mcnemar_midp(lost, won) == pytest.approx(1.0 if lost == won else exact - half)
    assert mcnemar_midp(won, lost) == mcnemar_midp(lost, won)


def test_mid_p_of_a_published_example() -> None:
    """Fagerland, Lydersen and Laake 2013, airway hyper-responsiveness: 1 and 7, mid-p 0.039."""
    assert mcnemar_midp(1, 7) == pytest.approx(0.0391, abs=5e-5)


def test_a_paired_difference_solves_tango_s_equation() -> None:
    """At either end the score of the restricted maximum likelihood is the normal's quantile."""
    lost, won, n = 30, 12, 400
    found = paired_difference(lost, won, n)
    assert found.value == pytest.approx(18 / 400)
    for end, z in ((found.low, 1.959964), (found.high, -1.959964), (found.lower, 1.644854)):
        b = -lost - won + (2 * n - lost + won) * end
        q = (math.sqrt(b * b + 8 * n * won * end * (1 - end)) - b) / (4 * n)
        # q maximises the likelihood of the table under the difference `end`
        likelihood = [
            lost * math.log(p + end) + won * math.log(p) + 358 * math.log(1 - 2 * p - end)
            for p in (q, q * 1.001, q * 0.999)
        ]
        assert likelihood[0] > max(likelihood[1:])
        score = (lost - won - n * end) / math.sqrt(n * (2 * q + end * (1 - end)))
        assert score == pytest.approx(z, abs=1e-5)


def test_nothing_flipped_leaves_room_by_hand() -> None:
    z = 1.6448536
    found = paired_difference(0, 0, 100)
    assert (found.lower, found.upper) == pytest.approx(
        (-(z**2) / (100 + z**2), z**2 / (100 + z**2))
    )
    assert (found.value, found.stderr, found.p) == (0.0, None, 1.0)


def test_the_interval_of_a_difference_and_its_test_agree() -> None:
    for lost in range(40):
        for won in range(0, 40, 3):
            found = paired_difference(lost, won, 500)
            assert found.p is not None
            if found.lower > 0 or found.upper < 0:
                assert found.p <= 0.1
            if found.low > 0 or found.high < 0:
                assert found.p <= 0.05
            assert found.low <= found.lower <= found.value <= found.upper <= found.high


def test_a_paired_difference_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = [
        found.low <= 0.02 <= found.high
        for lost, won, _ in rng.multinomial(300, [0.05, 0.03, 0.92], size=3000)
        for found in [paired_difference(int(lost), int(won), 300)]
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (498, 504)])
def test_shares_have_the_bounds_of_statsmodels(count: int, n: int) -> None:
    share = share_interval(count, n)
    assert (share.low, share.high) == pytest.approx(
        proportion_confint(count, n, 0.05, "wilson"), abs=1e-12
    )
    flips = flip_rate_interval(count, n)
    level = 0.10 if count in (0, n) else 0.05  # one side only where there is one
    assert (flips.low, flips.high) == pytest.approx(
        proportion_confint(count, n, level, "beta"), abs=1e-12
    )
    assert (flips.lower, flips.upper) == pytest.approx(
        proportion_confint(count, n, 0.10, "beta"), abs=1e-12
    )


def test_no_flip_is_the_rule_of_three() -> None:
    assert flip_rate_interval(0, 1000).upper == pytest.approx(3 / 1000, rel=0.01)


@pytest.mark.parametrize(("lost", "won", "n"), [(1, 1, 1), (-1, 0, 5), (0, 0, 0)])
def test_more_flips_than_items_are_refused(lost: int, won: int, n: int) -> None:
    with pytest.raises(ValueError, match="found"):
        paired_difference(lost, won, n)


# What follows


def test_the_items_that_method_names() -> None:
    """At 8 % flips: 6,277 items for one point; 1,000 items see 2.5 points."""
    assert math.ceil(items_needed(0.01, 0.08)) == 6277
    assert smallest_detectable_drop(1000, 0.08) == pytest.approx(0.025, abs=0.0005)
    assert smallest_detectable_drop(6277, 0.08) == pytest.approx(0.01, rel=1e-4)


def test_few_samples_need_a_larger_harm_by_hand() -> None:
    """t(0.95, 4) = 2.1318, t(0.8, 4) = 0.9410; χ²(0.5, 4) = 3.3567."""
    expected = (2.131847 + 0.940965) * math.sqrt(4 / 3.356694)
    assert smallest_detectable(1.0, df=4, power=0.8) == pytest.approx(expected, rel=1e-5)


def test_the_samples_that_would_decide_do() -> None:
    """Harm 0.5, margin 1, a bound 2 away with 100 samples: 16 times as many bring it to 0.5."""
    assert samples_to_decide(0.5, 2.0, 100, 1.0) == 1600
    assert samples_to_decide(2.0, 4.0, 10, 1.0) == 40  # then the bound is at 0
    assert samples_to_decide(1.0, 2.0, 100, 1.0) is None  # exactly the margin
    assert samples_to_decide(0.0, 0.1, 100, 1.0) == 101
