"""What a number of samples detects, and how many are enough."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2, nct, t

from harness.statistics.power import (
    items_needed,
    items_to_pass,
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
    """A normal estimate by hand; with 4 degrees of freedom, scipy's noncentral t."""
    assert smallest_detectable(1.0) == pytest.approx(1.644854 + 0.841621, rel=1e-3)
    true = math.sqrt(4 / chi2.median(4))  # the error that is more often estimated too small
    bar = t.ppf(0.95, 4)

    def power(harm: float) -> float:
        return float(nct.sf(bar, 4, harm / true))

    assert power(smallest_detectable(1.0, df=4)) == pytest.approx(0.8, abs=0.01)


def test_the_samples_that_would_decide_do() -> None:
    """A truth 0.5 within the margin: the bound is there with 80 % once 2.4865·SE is 0.5."""
    enough = samples_to_decide(1.0, 100, 0.5)
    assert enough == math.ceil(100 * (2.486475 / 0.5) ** 2)
    rng = np.random.default_rng(0)
    errors = math.sqrt(100 / enough)
    assert (rng.normal(0, errors, 20_000) + 1.644854 * errors < 0.5).mean() == pytest.approx(
        0.8, abs=0.01
    )
    assert samples_to_decide(1.0, 100, 0.0) is None  # exactly the margin
    assert samples_to_decide(1.0, 100, 1e-9) is None  # a number that helps nobody
    assert samples_to_decide(0.1, 100, 1.0) == 101


def test_few_processes_gain_degrees_of_freedom_with_their_number() -> None:
    """6 processes of σ √6: what t(0.95) + t(0.8) reach at N - 1 degrees of freedom."""
    enough = samples_to_decide(1.0, 6, 1.0, df=5)
    assert enough is not None

    def reach(n: int) -> float:
        df = 5 * n / 6
        return float(t.ppf(0.95, df) + t.ppf(0.8, df)) * math.sqrt(6 / n)

    assert reach(enough) <= 1.0 < reach(enough - 1) + 0.02


def test_the_items_that_unchanged_answers_pass_with() -> None:
    """2.4865²·1 %/0.01² = 618: as many lost as won pass a margin of one point in 80 %."""
    n = items_to_pass(0.01, 0.01)
    assert n == 619
    drops = np.random.default_rng(1).normal(0, math.sqrt(0.01 / n), 20_000)
    passed = drops + 1.644854 * math.sqrt(0.01 / n) <= 0.01
    assert passed.mean() == pytest.approx(0.8, abs=0.02)
