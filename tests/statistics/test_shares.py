"""Shares of items: against statsmodels, published examples and numbers worked out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from harness.statistics.shares import (
    flip_rate_interval,
    mcnemar_midp,
    paired_difference,
    share_interval,
)


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
