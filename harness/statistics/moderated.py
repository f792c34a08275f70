"""Spreads of few samples each, made surer by those of many values. Pure.

Three nights say little of how one speed varies, but a suite has a hundred speeds. Their variances
are taken as drawn from one distribution, which all of them together show: s0²·d0/χ²(d0). Each is
then judged by (d0·s0² + d·s²)/(d0 + d), with d0 + d degrees of freedom.

Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3(1):3, section 6.2 (limma's
``squeezeVar``), with tails winsorised as in Phipson et al. 2016, Annals of Applied Statistics 10,
946-963: one value with an outlying sample changes nothing for the others, and is itself judged by
its own variance alone. scipy and numpy are imported where they are used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Shares of the values whose variance may be much too small or too large.
TAILS = (0.05, 0.10)
_GRID = 400  # quantiles that stand for a distribution
_LARGEST_DF = 1e6
# An own variance that the others' distribution exceeds less often than this is an outlier's.
_OUTLIER = 0.001


@dataclass(frozen=True)
class Prior:
    """How variances differ between values: around ``variance``, as sure as ``df`` samples more.

    ``df`` is infinite where all values scatter alike, 0 where nothing is known of them; ``pooled``
    is how many all of them have, which no moderated variance exceeds.
    """

    variance: float
    df: float
    pooled: float


UNKNOWN = Prior(0.0, 0.0, 0.0)


def fit_prior(variances: Sequence[float], df: float, tails: tuple[float, float] = TAILS) -> Prior:
    """The distribution of these variances, of ``df`` degrees of freedom each.

    From the mean and the variance of their logarithms, the shares ``tails`` being winsorised at
    either end, as those of the fitted distribution are. `UNKNOWN` for fewer than three.
    """
    import numpy as np

    positive = [x for x in variances if x > 0]
    if len(positive) < 3:
        return UNKNOWN
    n = len(positive)
    cut = [int(share * n) for share in tails]
    logs = np.sort(np.log(positive))
    logs = np.clip(logs, logs[cut[0]], logs[n - 1 - cut[1]])
    shares = (cut[0] / n, cut[1] / n)
    spread = float(logs.var(ddof=1))

    def centre(d0: float) -> float:
        return math.exp(float(logs.mean()) - _moments(df, d0, shares)[0])

    if spread <= _moments(df, _LARGEST_DF, shares)[1]:
        return Prior(centre(_LARGEST_DF), math.inf, n * df)
    low, high = -3.0, math.log(_LARGEST_DF)  # a larger d0 is a smaller spread
    while high - low > 1e-6:
        middle = (low + high) / 2
        wider = _moments(df, math.exp(middle), shares)[1] > spread
        low, high = (middle, high) if wider else (low, middle)
    d0 = math.exp(low)
    return Prior(centre(d0), d0, n * df)


def fit_scale(prior: Prior, variances: Sequence[float], df: float) -> Prior:
    """The same prior around what a few new variances show, where that is more than it says.

    From the mean of their logarithms, which is as sure as their own degrees of freedom together.
    """
    from scipy.special import digamma

    positive = [x for x in variances if x > 0]
    if not prior.df or not positive:
        return prior
    d0 = min(prior.df, _LARGEST_DF)
    usual = digamma(df / 2) - math.log(df / 2) - digamma(d0 / 2) + math.log(d0 / 2)
    seen = math.exp(math.fsum(map(math.log, positive)) / len(positive) - float(usual))
    return Prior(max(prior.variance, seen), prior.df, len(positive) * df)


def squeeze(variance: float, df: float, prior: Prior) -> tuple[float, float]:
    """The moderated variance and its degrees of freedom.

    An outlier among the values keeps its own. Raises ValueError where neither says anything.
    """
    if not prior.df:
        if not df:
            raise ValueError("a variance needs 2 samples or other values' spreads")
        return variance, df
    if df and is_outlier(variance, df, prior.variance, prior.df):
        return variance, df
    if math.isinf(prior.df):
        return prior.variance, prior.pooled
    total = prior.df + df
    return (prior.df * prior.variance + df * variance) / total, min(total, prior.pooled)


def is_outlier(variance: float, df: float, usual: float, usual_df: float) -> bool:
    """Whether a variance is larger than the usual one as rarely happens by chance."""
    from scipy.special import fdtrc

    chance = float(fdtrc(df, min(usual_df, _LARGEST_DF), variance / usual)) if usual else 0.0
    return chance < _OUTLIER


@lru_cache(maxsize=4096)
def _moments(df: float, d0: float, shares: tuple[float, float]) -> tuple[float, float]:
    """Mean and variance of the logarithm of F(df, d0), winsorised."""
    import numpy as np
    from scipy.special import digamma, polygamma

    if not any(shares):
        mean = digamma(df / 2) - math.log(df / 2) - digamma(d0 / 2) + math.log(d0 / 2)
        return float(mean), float(polygamma(1, df / 2) + polygamma(1, d0 / 2))
    logs = np.log(_quantiles(df, d0, shares))
    return float(logs.mean()), float(logs.var())


def _quantiles(df: float, d0: float, shares: tuple[float, float]) -> Any:
    import numpy as np
    from scipy.special import fdtri

    middles = (np.arange(_GRID) + 0.5) / _GRID
    return fdtri(df, d0, np.clip(middles, shares[0], 1 - shares[1]))
