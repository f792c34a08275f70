"""Intervals for numbers that vary from process to process. Pure; each with its formula and source.

scipy is imported where it is used: it takes a quarter of a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """``value`` with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def geometric_mean_interval(samples: Sequence[float], level: float = 0.95) -> Estimate:
    """Geometric mean of independent samples: exp(mean ± t·s/√n) of their logarithms.

    Student's t with n - 1 degrees of freedom. Times and rates have skewed spreads that are
    proportional to their size, so their logarithms are what is nearly normal. Raises ValueError
    for fewer than two samples or one that is not positive.
    """
    if len(samples) < 2:
        raise ValueError(f"an interval needs at least 2 samples, found {len(samples)}")
    if not all(sample > 0 for sample in samples):
        raise ValueError(f"logarithms need positive samples, found {min(samples)}")
    from scipy import stats

    logs = [math.log(sample) for sample in samples]
    mean, spread = fmean(logs), stdev(logs) / math.sqrt(len(logs))
    reach = float(stats.t.ppf((1 + level) / 2, len(logs) - 1)) * spread
    return Estimate(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))


def paired_ratio_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Estimate:
    """The ratio b/a from pairs measured next to each other: x = ln(b/a), mean ± t·s/√pairs.

    What drifts over minutes is the same for both sides of a pair and cancels. Raises ValueError
    for lists of different lengths and as `geometric_mean_interval` does.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need as many of either side, found {len(a)} and {len(b)}")
    if not all(sample > 0 for sample in (*a, *b)):
        raise ValueError(f"a ratio needs positive samples, found {min((*a, *b))}")
    return geometric_mean_interval([y / x for x, y in zip(a, b)], level)
