"""repeated_looks: bounds that err no more often because they are looked at again and again."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from harness.statistics.repeated_looks import (
    find_boundaries,
    level_at_last_look,
    spend_like_pocock,
)

FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
SIXTEENTHS = tuple(n / 16 for n in range(3, 17))


def spend_like_obrien_fleming(level: float, fraction: float) -> float:
    """Lan and DeMets' α1*: 2 - 2Φ(z(α/2)/√t)."""
    z = NormalDist().inv_cdf(1 - level / 2)
    return 2 * float(stats.norm.sf(z / math.sqrt(fraction)))


def test_published_boundaries() -> None:
    """Reboussin, DeMets, Kim and Lan 2000 (the program LD98, R's ldbounds), α = 0.025 a side."""
    obrien_fleming = find_boundaries(0.025, FIFTHS, spend_like_obrien_fleming)
    assert obrien_fleming == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)
    pocock = find_boundaries(0.025, FIFTHS, spend_like_pocock)
    assert pocock == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3860], abs=1e-4)


def test_a_single_look_at_everything_spends_it_all() -> None:
    assert level_at_last_look(0.05, (1.0,)) == pytest.approx(0.05)
    # ln(1 + (e - 1)/2) = 0.620115
    assert level_at_last_look(0.05, (0.5,)) == pytest.approx(0.05 * 0.620115, rel=1e-5)


def test_two_looks_against_the_bivariate_normal() -> None:
    """Crossing first, or else second: the correlation of looks is the root of their fractions."""
    first, both = (level_at_last_look(0.05, (0.3, 1.0)[:k]) for k in (1, 2))
    below = [NormalDist().inv_cdf(1 - level) for level in (first, both)]
    joint = stats.multivariate_normal(cov=[[1, math.sqrt(0.3)], [math.sqrt(0.3), 1]])
    assert 1 - joint.cdf(below) == pytest.approx(0.05, abs=1e-5)


def test_what_is_spent_never_exceeds_the_level_however_small() -> None:
    for level in (0.05, 2e-4):
        levels = [level_at_last_look(level, SIXTEENTHS[:k]) for k in range(1, 15)]
        assert all(one < level for one in levels)
        assert sum(levels) > level  # less than by Bonferroni: looks resemble each other


def test_a_look_without_more_data_is_none() -> None:
    assert level_at_last_look(0.05, (0.3, 0.3, 1.0)) == level_at_last_look(0.05, (0.3, 1.0))
    assert level_at_last_look(0.05, (0.3, 0.3)) == level_at_last_look(0.05, (0.3,))
    with pytest.raises(ValueError, match="looks need samples"):
        level_at_last_look(0.05, ())


def test_t_bounds_of_few_samples_miss_the_truth_at_any_look_in_no_more_than_five_percent() -> None:
    """Two sides of 3 to 16 samples; without the allowance more than 15 % do."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (2, 8000, 16))
    missed = {True: np.zeros(8000, bool), False: np.zeros(8000, bool)}
    for look, n in enumerate(range(3, 17), 1):
        error = {True: level_at_last_look(0.05, SIXTEENTHS[:look]), False: 0.05}
        change = b[:, :n].mean(1) - a[:, :n].mean(1)
        stderr = np.sqrt((a[:, :n].var(1, ddof=1) + b[:, :n].var(1, ddof=1)) / n)
        for allowed, found in missed.items():
            found |= change > stats.t.isf(error[allowed], 2 * n - 2) * stderr
    assert missed[True].mean() <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / 8000)
    assert missed[True].mean() >= 0.04
    assert missed[False].mean() >= 0.15
