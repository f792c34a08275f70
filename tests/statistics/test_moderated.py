"""Moderated variances: against limma's formulas worked out anew, and on drawn variances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from harness.statistics.moderated import UNKNOWN, Prior, fit_prior, is_outlier, squeeze


def draw(n: int, df: float, d0: float, seed: int = 1) -> list[float]:
    rng = np.random.default_rng(seed)
    true = np.full(n, 2.0) if math.isinf(d0) else 2.0 * d0 / rng.chisquare(d0, n)
    return (true * rng.chisquare(df, n) / df).tolist()


@pytest.mark.parametrize(("df", "d0"), [(2, 4), (4, 10), (5, 3)])
def test_without_winsorising_it_is_smyth_s_formula(df: float, d0: float) -> None:
    """limma's fitFDist: e = log s² - ψ(df/2) + log(df/2); ψ'(d0/2) = var(e) - ψ'(df/2)."""
    variances = draw(200, df, d0)
    e = np.log(variances) - digamma(df / 2) + math.log(df / 2)
    rest = e.var(ddof=1) - polygamma(1, df / 2)
    half = brentq(lambda x: polygamma(1, x) - rest, 1e-3, 1e6)
    found = fit_prior(variances, df, tails=(0, 0))
    assert found.df == pytest.approx(2 * half, rel=1e-3)
    centre = math.exp(e.mean() + digamma(half) - math.log(half))
    assert found.variance == pytest.approx(centre, rel=1e-3)


@pytest.mark.parametrize("d0", [4, 20, math.inf])
def test_it_finds_what_the_variances_were_drawn_from(d0: float) -> None:
    """The median of 40 fits to 96 variances of 2 degrees of freedom."""
    fits = [fit_prior(draw(96, 2, d0, seed), 2) for seed in range(40)]
    assert np.median([fit.variance for fit in fits]) == pytest.approx(2.0, rel=0.1)
    middle = float(np.median([fit.df for fit in fits]))
    assert (d0 / 2 < middle < 2 * d0) if math.isfinite(d0) else middle == math.inf


def test_one_outlier_changes_little_for_the_others_and_keeps_its_own_variance() -> None:
    variances = draw(96, 2, math.inf)
    spoilt = [2000.0, *variances[1:]]
    plain, robust = fit_prior(spoilt, 2, tails=(0, 0)), fit_prior(spoilt, 2)
    assert plain.df < 10
    assert robust.df > 30
    assert robust.variance == pytest.approx(fit_prior(variances, 2).variance, rel=0.1)
    assert squeeze(2000.0, 2, robust) == (2000.0, 2)


def test_a_variance_is_squeezed_by_hand() -> None:
    """(10·2 + 2·8)/12 = 3 with 12 degrees of freedom; never more than all values have together."""
    assert squeeze(8.0, 2, Prior(2.0, 10.0, 100.0)) == (3.0, 12.0)
    assert squeeze(8.0, 2, Prior(2.0, 10.0, 9.0)) == (3.0, 9.0)
    assert squeeze(8.0, 2, Prior(2.0, math.inf, 40.0)) == (2.0, 40.0)
    assert squeeze(8.0, 2, UNKNOWN) == (8.0, 2)
    with pytest.raises(ValueError, match="a variance needs 2 samples"):
        squeeze(0.0, 0, UNKNOWN)


def test_fewer_than_three_values_say_nothing_of_a_fourth() -> None:
    assert fit_prior([1.0, 2.0], 2) == UNKNOWN
    assert fit_prior([1.0, 0.0, 2.0, 0.0], 2) == UNKNOWN


def test_an_outlier_is_what_chance_gives_less_than_once_in_a_thousand() -> None:
    """χ²(2) exceeds 13.8155 with a probability of 0.001."""
    assert not is_outlier(13.81 / 2, 2, 1.0, math.inf)
    assert is_outlier(13.83 / 2, 2, 1.0, math.inf)
