"""statistics: intervals against scipy's own and against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.statistics import geometric_mean_interval, paired_ratio_interval


def test_two_samples_by_hand() -> None:
    """ln 1 and ln e²: mean 1, s = √2, s/√2 = 1, t(0.975, 1) = 12.7062."""
    found = geometric_mean_interval([1.0, math.exp(2)])
    assert found.value == pytest.approx(math.e)
    assert found.low == pytest.approx(math.exp(1 - 12.706204736))
    assert found.high == pytest.approx(math.exp(1 + 12.706204736))


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("count", [2, 3, 6, 40])
def test_the_interval_is_scipy_s_on_logarithms(count: int, level: float) -> None:
    samples = np.random.default_rng(count).lognormal(3, 0.2, count)
    logs = np.log(samples)
    low, high = stats.t.interval(level, count - 1, logs.mean(), stats.sem(logs))
    found = geometric_mean_interval(samples.tolist(), level)
    assert found.value == pytest.approx(stats.gmean(samples))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


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
