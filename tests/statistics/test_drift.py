"""Drifts: against scipy's Kendall and Theil-Sen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.statistics.drift import find_drift


def test_a_drift_is_scipy_s_line_and_as_sure_as_its_test() -> None:
    """Where neighbours look correlated by chance it is less sure."""
    random = np.random.default_rng(3)
    for slope in np.linspace(0, 0.06, 13):
        values = slope * np.arange(40) + random.standard_normal(40)
        found = find_drift(values.tolist())
        if found is None:
            continue
        assert stats.kendalltau(np.arange(40), values).pvalue < 0.0012
        line = stats.theilslopes(values, np.arange(40), method="joint")
        assert found == pytest.approx((line.intercept, line.intercept + 39 * line.slope))
    assert find_drift((0.06 * np.arange(40) + random.standard_normal(40)).tolist()) is not None


def test_too_few_values_or_equal_ones_do_not_drift() -> None:
    assert find_drift([float(i) for i in range(29)]) is None
    assert find_drift([float(i) for i in range(30)]) == pytest.approx((0.0, 29.0))
    assert find_drift([1.0] * 40) is None


def test_a_few_odd_values_are_no_drift() -> None:
    assert find_drift([1.0 + (i % 3) / 10 for i in range(36)] + [9.0, 9.5, 10.0]) is None
