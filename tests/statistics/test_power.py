"""What a number of samples detects, and how many are enough."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2, nct, t

from harness.statistics.power import (
    items_to_pass,
    samples_to_decide,
    smallest_detectable,
    smallest_detectable_share,
    smallest_passed,
)
from harness.statistics.shares import paired_difference


def test_the_smallest_drop_that_items_show_is_seen_in_four_of_five() -> None:
    """1,000 items, 2 % flip by chance; FAIL: above a margin of 1 % and z(0.98) by McNemar."""
    drop = smallest_detectable_share(1000, 0.02, 0.01, 0.98)
    rng = np.random.default_rng(3)
    lost, won = rng.poisson(1000 * (0.01 + drop), 20_000), rng.poisson(10, 20_000)
    found = lost - won
    seen = (found > 10) & (found > 2.053749 * np.sqrt(lost + won))
    assert 0.78 < seen.mean() < 0.86  # items are whole
    few = smallest_detectable_share(200, 0.0, 0.01, 0.98)  # nothing flips but what is lost
    lost = rng.binomial(200, few, 20_000)
    seen = (lost > 2) & (lost > 2.053749 * np.sqrt(lost))
    assert seen.mean() > 0.8  # more: the spread of fewer is smaller


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


@pytest.mark.parametrize(("margin", "flips"), [(0.01, 0.01), (0.01, 0.08), (0.04, 0.08)])
def test_the_items_that_unchanged_answers_pass_with(margin: float, flips: float) -> None:
    """By Tango's interval, of which the number of items is worked out without it."""
    n = items_to_pass(margin, flips)
    assert smallest_passed(n, flips) == pytest.approx(margin, rel=2 / n)
    drawn = np.random.default_rng(1).multinomial(n, [flips / 2, flips / 2, 1 - flips], 1500)
    passed = [paired_difference(int(x), int(y), n).upper <= margin for x, y, _ in drawn]
    assert np.mean(passed) == pytest.approx(0.81, abs=0.03)
