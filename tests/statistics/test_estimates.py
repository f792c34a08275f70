"""Estimates of processes, pairs and chunks: against scipy and against numbers worked out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter
from statsmodels.tsa.ar_model import AutoReg

from harness.statistics.estimates import (
    Processes,
    clustered_interval,
    clustered_mean,
    exp_capped,
    geometric_mean_interval,
    neighbour_correlation,
    paired_ratio_interval,
    pooled_ratio_interval,
    positive_interval,
    welch_ratio_interval,
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


def test_groups_that_scatter_alike_are_compared_as_scipy_does() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.lognormal(0, 0.02, 3), rng.lognormal(0.05, 0.02, 6)
    theirs = stats.ttest_ind(np.log(b), np.log(a))
    found = pooled_ratio_interval(processes(a.tolist()), processes(b.tolist()))
    assert found.p == pytest.approx(theirs.pvalue)
    bounds = theirs.confidence_interval(0.90)
    assert (found.lower, found.upper) == pytest.approx((math.exp(bounds[0]), math.exp(bounds[1])))
    assert found.n == 3


def test_a_single_process_is_a_prediction_by_hand() -> None:
    """ln of 1, e, e²: mean 1, s = 1; SE = 1·√(1 + 1/3), t(0.975, 2) = 4.302653."""
    known = processes([1.0, math.e, math.e**2])
    found = welch_ratio_interval(known, processes([math.e]))
    assert found.value == pytest.approx(1.0)
    assert found.high == pytest.approx(math.exp(4.302652729911275 * math.sqrt(4 / 3)))
    with pytest.raises(ValueError, match="found 1 and 1"):
        welch_ratio_interval(processes([1.0]), processes([2.0]))


# Chunks of a text


def test_clustered_mean_by_hand() -> None:
    """mean 12/6 = 2; residuals 1, -2, 1; SE = sqrt(6 * 3/2) / 6 = 0.5."""
    assert clustered_mean([3.0, 2.0, 7.0], [1, 2, 3]) == (2.0, 0.5)


def test_a_single_chunk_has_no_spread() -> None:
    assert clustered_mean([6.0], [3]) == (2.0, None)
    assert clustered_mean([6.0, 6.0], [3, 3]) == (2.0, 0.0)


def test_chunks_of_one_size_give_the_standard_error_of_their_means() -> None:
    means = np.random.default_rng(0).normal(3, 0.4, 40)
    mean, stderr = clustered_mean(list(means * 16), [16] * 40, in_order=False)
    assert mean == pytest.approx(means.mean())
    assert stderr == pytest.approx(stats.sem(means), rel=1e-12)


def test_the_spread_of_unequal_chunks_agrees_with_a_bootstrap() -> None:
    random = np.random.default_rng(1)
    counts = random.integers(5, 60, 400)
    sums = counts * random.normal(3, 0.5, 400)

    def ratio(s: Any, c: Any, axis: int = -1) -> Any:
        return s.sum(axis) / c.sum(axis)

    resampled = stats.bootstrap(
        (sums, counts), ratio, paired=True, n_resamples=2000, method="basic", rng=random
    )
    _, stderr = clustered_mean(list(sums), [int(c) for c in counts], in_order=False)
    assert stderr == pytest.approx(resampled.standard_error, rel=0.08)


def test_equal_chunks_have_the_interval_of_scipy_s_mean() -> None:
    sums = np.random.default_rng(3).normal(10, 2, 12)
    found = clustered_interval(sums.tolist(), [4] * 12, in_order=False)
    low, high = stats.t.interval(0.95, 11, sums.mean() / 4, stats.sem(sums) / 4)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(sums, 0).pvalue)


def test_a_ratio_of_perplexities_by_hand() -> None:
    """Differences of 0.2 and 0.4 nats over 2 tokens each: mean 0.15 a token, SE 0.05."""
    found = clustered_interval([0.2, 0.4], [2, 2], exp_capped, in_order=False)
    assert found is not None
    assert found.value == pytest.approx(math.exp(0.15))
    assert found.low == pytest.approx(math.exp(0.15 - 12.706204736 * 0.05))
    assert found.stderr == pytest.approx(math.exp(0.15) * 0.05)
    assert clustered_interval([1.0], [1], in_order=False) is None


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


@pytest.mark.parametrize(("chunks", "correlation"), [(300, 0.0), (300, 0.4), (12, 0.4)])
def test_neighbours_that_are_alike_count_as_fewer(chunks: int, correlation: float) -> None:
    """Against statsmodels' autoregression; its least squares differ in the chunks at the ends."""
    values = chain(np.random.default_rng(7), chunks, correlation)
    rest = (values - values.mean()).tolist()
    [slope] = AutoReg(values, 1).fit().params[1:]
    expected = min(0.9, max(0.0, (chunks * slope + 1) / (chunks - 3)))
    assert neighbour_correlation(rest) == pytest.approx(expected, abs=2 / chunks)
    r = neighbour_correlation(rest)
    alone = clustered_mean(values.tolist(), [1] * chunks, in_order=False)[1] or 0.0
    ordered = clustered_mean(values.tolist(), [1] * chunks)[1] or 0.0
    assert ordered == pytest.approx(alone * math.sqrt((1 + r) / (1 - r)))


def test_intervals_of_correlated_chunks_hold_the_truth_and_plain_ones_do_not() -> None:
    """Correlated 0.42, as 8 kB of WikiText-2: 400 texts of 60 chunks."""
    rng = np.random.default_rng(9)
    held = {True: 0, False: 0}
    for _ in range(400):
        values = chain(rng, 60, 0.42).tolist()
        for in_order in held:
            found = clustered_interval(values, [1] * 60, in_order=in_order)
            assert found is not None
            held[in_order] += found.low <= 0 <= found.high
    assert held[True] / 400 > 0.92
    assert held[False] / 400 < 0.85


def test_an_interval_of_a_text_needs_ten_chunks() -> None:
    values = np.random.default_rng(1).gamma(4, 1, 10).tolist()
    for interval in (clustered_interval, positive_interval):
        assert interval(values[:9], [1] * 9) is None
        assert interval(values, [1] * 10) is not None
    assert neighbour_correlation([1.0, 1.0, 1.0, -3.0]) == 0.0


def test_a_positive_interval_by_hand() -> None:
    """Mean 2, c² = 10/9/4, r² = c²/10, df = 9/3: t(0.975, 3) = 3.182446."""
    values = [1.0, 3.0] * 5  # neighbours are as unlike as can be, so that none counts as fewer
    found = positive_interval(values, [1] * 10)
    assert found is not None
    c2, t2 = 10 / 36, 3.182446305284263**2
    r = math.sqrt(c2 / 10)
    above = (3 + c2) * (1 + 2 * t2) / 6 - t2 / 2
    assert (found.value, found.df, found.stderr) == (2.0, 3.0, pytest.approx(2 * r))
    assert found.low == pytest.approx(2 * math.exp(-math.sqrt(t2) * r + (t2 + 2) / 6 * r**2))
    assert found.high == pytest.approx(2 * math.exp(math.sqrt(t2) * r + above * r**2))
    assert positive_interval([0.0] * 12, [1] * 12) is None


@pytest.mark.parametrize("k", [2.0, 3.4])
def test_the_correction_on_a_logarithm_is_hall_s_for_the_mean(k: float) -> None:
    """Hall: mean + SE·(t + skewness·(2t² + 1)/(6·√n)), and exp(x) = 1 + x + x²/2 to that order."""
    t, r = 1.7, 1e-4
    on_the_log = math.exp(t * r + (k * (1 + 2 * t**2) / 6 - t**2 / 2) * r**2)
    on_the_mean = 1 + r * (t + k * r * (2 * t**2 + 1) / 6)  # skewness/√n = k·r
    assert on_the_log == pytest.approx(on_the_mean, abs=100 * r**3)
    c = 0.63  # of a lognormal: (exp(σ²) + 2)·sqrt(exp(σ²) - 1), c² = exp(σ²) - 1
    skewness = stats.lognorm(math.sqrt(math.log1p(c**2))).stats("s")
    assert (3 + c**2) * c == pytest.approx(skewness)
    assert stats.gamma(1 / c**2).stats("s") == pytest.approx(2 * c)


def test_a_wider_spread_never_moves_the_lower_bound_up() -> None:
    found = [
        positive_interval([1.0 - x, 1.0 + x] * 5 + [1.0 + 9 * x], [1] * 11) for x in (0.1, 0.4, 0.8)
    ]
    shares = [one.lower / one.value for one in found if one is not None]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("sigma", [None, 0.5, 0.8])
def test_a_bound_of_skewed_chunks_is_low_as_often_as_it_says(sigma: float | None) -> None:
    """20 chunks, gamma with a spread of half their mean or lognormal: a symmetric one in 7 %."""
    rng = np.random.default_rng(2)
    low = high = symmetric = 0
    drawn = rng.gamma(4, 0.25, (3000, 20))
    if sigma is not None:
        drawn = rng.lognormal(-(sigma**2) / 2, sigma, (3000, 20))
    for values in drawn:
        found = positive_interval(values.tolist(), [1] * 20)
        plain = clustered_interval(values.tolist(), [1] * 20, in_order=False)
        assert found is not None
        assert plain is not None
        low += found.upper < 1
        high += found.lower > 1
        symmetric += plain.upper < 1
    assert max(low, high) / 3000 < 0.055
    assert symmetric / 3000 > 0.06


@pytest.mark.parametrize(("chunks", "correlation"), [(60, 0.0), (200, 0.0), (200, 0.4)])
def test_a_variance_with_a_correlation_has_the_spread_of_its_degrees_of_freedom(
    chunks: int, correlation: float
) -> None:
    """The logarithm of an estimated variance varies by 2/df (of s²: 2/(n - 1)).

    Without correlation r is kept from falling below 0, which takes away part of its spread.
    """
    rng = np.random.default_rng(4)
    logs, freedom = [], []
    for _ in range(2000):
        found = clustered_interval(chain(rng, chunks, correlation).tolist(), [1] * chunks)
        assert found is not None
        assert found.stderr is not None
        logs.append(2 * math.log(found.stderr))
        freedom.append(found.df)
    seen = 2 / float(np.var(logs))
    if correlation:
        assert seen == pytest.approx(np.median(freedom), rel=0.15)
    else:
        assert seen > np.median(freedom)


def chain(rng: np.random.Generator, n: int, correlation: float) -> Any:
    """An autoregression of first order, of variance 1."""
    fresh = rng.normal(0, math.sqrt(1 - correlation**2), n + 50)
    return lfilter([1.0], [1.0, -correlation], fresh)[50:]
