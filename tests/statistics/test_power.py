"""What a number of samples detects, and how many are enough."""

from __future__ import annotations

import math

import pytest

from harness.statistics.power import (
    items_needed,
    samples_to_decide,
    smallest_detectable,
    smallest_detectable_drop,
)


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
