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
    n: int, flip_rate: float, margin: float = 0.0, confidence: float = 0.95, null: float = 0.0
) -> float:
    """`smallest_detectable` of a paired difference d of right items.

    Beyond ``margin`` and z(confidence)·sqrt((f - null²)/n) from ``null``, with a standard error of
    sqrt((f - d²)/n). As many items flip as did, or only those that are lost where that is more.
    """
    z = NormalDist().inv_cdf(confidence)

    def seen(drop: float) -> bool:
        rate = max(flip_rate, drop)
        bar = max(margin, null + z * math.sqrt(max(rate - null**2, 0.0) / n))
        return drop >= bar + _NORMAL_POWER * math.sqrt(max(rate - drop**2, 0.0) / n)

    return bisect(seen, 0.0, 1.0)


def smallest_detectable_drop(n: int, flip_rate: float, power: float = POWER) -> float:
    """The smallest paired accuracy drop that n items detect, two-sided 95 %, at this flip rate.

    Solves n = (z(0.975)·sqrt(f) + z(power)·sqrt(f - d²))²/d² (Connor 1987, Biometrics 43). A
    drop cannot exceed the flip rate, which is returned where even that is not detected.
    """
    return bisect(lambda drop: items_needed(drop, flip_rate, power) <= n, 0.0, flip_rate)


def items_needed(drop: float, flip_rate: float, power: float = POWER) -> float:
    """Items that detect a paired accuracy ``drop``; see `smallest_detectable_drop`."""
    z, z_power = (NormalDist().inv_cdf(q) for q in (0.975, power))
    rest = max(0.0, flip_rate - drop**2)
    return (z * math.sqrt(flip_rate) + z_power * math.sqrt(rest)) ** 2 / drop**2


def items_to_pass(margin: float, flip_rate: float) -> int:
    """Items of which unchanged answers pass ``margin`` with `POWER`, as many lost as won."""
    return math.ceil(((NORMAL_95 + _NORMAL_POWER) / margin) ** 2 * flip_rate)


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


def degrees_of_freedom(reach: float, stderr: float) -> float:
    """Of a 95 % t interval that reaches so far to one side; infinite for a normal one."""
    from scipy.special import stdtridf

    ratio = reach / stderr
    return math.inf if ratio <= t_quantile(0.975, 1e6) else float(stdtridf(0.975, ratio))
