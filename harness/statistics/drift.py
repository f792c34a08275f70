"""Slow changes over many observations, none of which shows one. Pure."""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist, median

from harness.statistics.estimates import neighbour_correlation

# Of fewer observations nothing is called a drift; what happens by chance less often is one.
_FEWEST, _BY_CHANCE = 30, 0.001


def find_drift(values: Sequence[float]) -> tuple[float, float] | None:
    """Where a line through the values begins and ends, if they surely rise or fall; else None.

    Mann and Kendall's test of ranks (Mann 1945, Econometrica 13), which a few odd values do not
    disturb; its variance is that of n(1 - r)/(1 + r) values, r being the correlation of neighbours
    around the line (Yue and Wang 2004, Water Resources Management 18). The line has the median
    slope of all pairs (Sen 1968, JASA 63).
    """
    n = len(values)
    if n < _FEWEST:
        return None
    slopes = [(values[j] - values[i]) / (j - i) for i, j in combinations(range(n), 2)]
    slope, score = median(slopes), sum(x > 0 for x in slopes) - sum(x < 0 for x in slopes)
    rest = [value - slope * i for i, value in enumerate(values)]
    start = median(rest)
    r = neighbour_correlation([x - start for x in rest])
    variance = n * (n - 1) * (2 * n + 5) / 18 * (1 + r) / (1 - r)
    chance = 2 * NormalDist().cdf(-max(0, abs(score) - 1) / math.sqrt(variance))
    return (start, start + slope * (n - 1)) if slope and chance < _BY_CHANCE else None
