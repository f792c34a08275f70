"""What a number of samples can detect, and how many would be enough. Pure.

Every figure is solved for `POWER`: what is called detectable is called FAIL in four runs of five,
and so many samples decide in four of five. scipy and numpy are imported where they are used.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from harness.statistics.estimates import NORMAL_95, bisect, t_quantile

POWER = 0.8
_NORMAL_POWER = NormalDist().inv_cdf(POWER)
_GRID = 64  # quantiles that stand for the distribution of a spread
_MOST = 1000  # times as many samples as there are: beyond that no number is worth naming


def smallest_detectable(
    stderr: float, margin: float = 0.0, df: float = math.inf, confidence: float = 0.95
) -> float:
    """The smallest harm whose estimate is beyond margin and t(confidence)·SE with `POWER`.

    That is what a change must be to be called FAIL. The standard error in the test is estimated
    with ``df`` degrees of freedom; the true one is taken to be the median of what may have led to
    this one. 0 for no spread and no margin.
    """
    if not stderr:
        return margin
    import numpy as np
    from scipy.special import ndtr

    ratios = _spreads(df)
    true = stderr / ratios[len(ratios) // 2]
    bars = (t_quantile(confidence, df) * ratios).clip(margin / true)
    harms = np.linspace(bars[0] + _NORMAL_POWER, bars[-1] + _NORMAL_POWER, 33)
    powers = ndtr(harms[:, None] - bars) @ np.full(_GRID, 1 / _GRID)
    return float(true * np.interp(POWER, powers, harms))


@lru_cache(maxsize=256)
def _spreads(df: float) -> Any:
    """Estimated over true standard error, at the middle of each of `_GRID` equal shares."""
    import numpy as np

    if math.isinf(df):
        return np.ones(_GRID)
    from scipy.special import chdtri

    return np.sqrt(chdtri(df, 1 - (np.arange(_GRID) + 0.5) / _GRID) / df)


def smallest_detectable_share(
    n: int, by_chance: float, margin: float = 0.0, confidence: float = 0.95, null: float = 0.0
) -> float:
    """`smallest_detectable` of a paired difference d of right items.

    Beyond ``margin`` and z(confidence)·sqrt((f - null²)/n) from ``null``, with a standard error of
    sqrt((f - d²)/n) and half an item more, as items are whole. As many items flip as do
    ``by_chance``, as often for better as for worse, and on top of them those that are lost.
    """
    z = NormalDist().inv_cdf(confidence)

    def seen(drop: float) -> bool:
        rate = min(1.0, by_chance + drop)
        bar = max(margin, null + z * math.sqrt(max(rate - null**2, 0.0) / n)) + 0.5 / n
        return drop >= bar + _NORMAL_POWER * math.sqrt(max(rate - drop**2, 0.0) / n)

    return bisect(seen, 0.0, 1.0)


def items_to_pass(margin: float, flip_rate: float) -> int:
    """Items that pass ``margin``, a limit's or another, with `POWER` where nothing is worse.

    As many are lost as won, f together. Solves z(0.95)·sqrt(f') + z(0.8)·sqrt(f) = margin·sqrt(n)
    for a score interval, whose variance is that of the likeliest shares with a difference of the
    margin m: f' = f/2 + sqrt(f²/4 + m²) - m² (Nam 1997, Biometrics 53, 1422-1430).
    """
    at_margin = flip_rate / 2 + math.hypot(flip_rate / 2, margin) - margin**2
    reach = NORMAL_95 * math.sqrt(at_margin) + _NORMAL_POWER * math.sqrt(flip_rate)
    return math.ceil((reach / margin) ** 2)


def smallest_passed(n: int, flip_rate: float) -> float:
    """The finest margin that ``n`` items pass; see `items_to_pass`."""
    return bisect(lambda margin: items_to_pass(margin, flip_rate) <= n, 1e-6, 1.0)


def samples_to_decide(
    stderr: float, n: int, gap: float, df: float = math.inf, confidence: float = 0.95
) -> int | None:
    """How many samples instead of ``n`` put a bound ``gap`` from the truth with `POWER`.

    (t(confidence) + t(0.8))·SE must be ``gap``; the standard error shrinks with the root of the
    samples, and the degrees of freedom grow with them. None beyond a thousand times ``n``, and
    where there is no gap.
    """
    if gap <= 0 or not n:
        return None
    enough = n
    for _ in range(20):  # more samples have more degrees of freedom, so fewer are needed
        freedom = df * enough / n
        reach = t_quantile(confidence, freedom) + t_quantile(POWER, freedom)
        found = math.ceil(n * min((reach * stderr / gap) ** 2, 2.0 * _MOST))
        if found == enough:
            break
        enough = max(2, found)
    return None if enough > _MOST * n else max(n + 1, enough)
