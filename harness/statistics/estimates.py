"""Estimates of continuous quantities, with intervals: processes, pairs, chunks of a text. Pure.

Each function names its formula and source. Intervals of 95 % are for readers; verdicts use
one-sided 95 % bounds (the ends of the 90 % interval). scipy is imported where it is used.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean, stdev

NORMAL_95, NORMAL_975 = (NormalDist().inv_cdf(q) for q in (0.95, 0.975))
# An interval needs as many chunks of a text: of fewer the correlation of neighbours is unknown
# (benchmarks/calibration.py: with 10 it covers 93 to 95 %).
FEWEST_CLUSTERS = 10
_LARGEST_LOG = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Estimate:
    """``value`` with its 95 % interval ``low`` to ``high`` and one-sided bounds, each of 95 %.

    ``stderr`` is in the value's own unit; ``p`` is the two-sided p-value of no difference, for an
    estimate of a difference; ``n`` counts the independent samples: chunks, items, processes.
    ``df`` are the degrees of freedom of ``stderr``, infinite where the interval is no Student's t.
    """

    value: float
    low: float
    high: float
    lower: float
    upper: float
    stderr: float | None
    n: int
    p: float | None = None
    df: float = math.inf


def exp_capped(x: float) -> float:
    """exp(x), or the largest float where it would overflow: a number that can be judged."""
    return math.exp(min(x, _LARGEST_LOG))


def geometric_mean_interval(samples: Sequence[float]) -> Estimate:
    """Geometric mean of independent samples: exp(mean ± t·s/√n) of their logarithms.

    Student's t with n - 1 degrees of freedom. Times and rates have skewed spreads in proportion to
    their size, so their logarithms are what is nearly normal. ``p`` is that of a mean of 1. Raises
    ValueError for fewer than two samples or one that is not positive.
    """
    if len(samples) < 2:
        raise ValueError(f"an interval needs at least 2 samples, found {len(samples)}")
    logs = _logarithms(samples)
    n = len(logs)
    return _student(fmean(logs), stdev(logs) / math.sqrt(n), n - 1, n, exp_capped)


def paired_ratio_interval(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The ratio b/a from pairs measured next to each other: x = ln(b/a), mean ± t·s/√pairs.

    A drift over minutes is the same for both sides of a pair and cancels. Raises ValueError for
    lists of different lengths and as `geometric_mean_interval` does.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need as many of either side, found {len(a)} and {len(b)}")
    _logarithms((*a, *b))
    return geometric_mean_interval([y / x for x, y in zip(a, b)])


@dataclass(frozen=True)
class Processes:
    """A quantity that each of ``n`` processes gave: geometric ``mean``, ``spread`` of one process.

    ``spread`` is the standard deviation of the logarithms, None for a single process.
    """

    mean: float
    spread: float | None
    n: int


def welch_ratio_interval(a: Processes, b: Processes) -> Estimate:
    """The ratio b/a of two geometric means of processes that were not measured in pairs.

    Welch's t on the logarithms: SE² = s_a²/n_a + s_b²/n_b, degrees of freedom by Satterthwaite.
    Where one side has no spread, as in `pooled_ratio_interval`.
    """
    if a.spread is None or b.spread is None:
        return pooled_ratio_interval(a, b)
    parts = [side.spread**2 / side.n for side in (a, b) if side.spread is not None]
    square = math.fsum(parts)
    below = sum(part**2 / (side.n - 1) for part, side in zip(parts, (a, b)))
    df = square**2 / below if below else a.n + b.n - 2
    return _student(math.log(b.mean / a.mean), math.sqrt(square), df, min(a.n, b.n), exp_capped)


def pooled_ratio_interval(a: Processes, b: Processes) -> Estimate:
    """As `welch_ratio_interval`, for two groups that are taken to scatter alike: Student's t.

    For the same thing measured at two times: with few processes the pooled spread, of n_a + n_b - 2
    degrees of freedom, says far more. Where one side has no spread it is given the other's, as in a
    prediction interval. Raises ValueError where neither has one.
    """
    known = [side for side in (a, b) if side.spread is not None]
    if not known:
        raise ValueError(f"a spread needs 2 processes of a side, found {a.n} and {b.n}")
    df = sum(side.n - 1 for side in known)
    pooled = sum((side.n - 1) * (side.spread or 0.0) ** 2 for side in known) / df
    stderr = math.sqrt(pooled * (1 / a.n + 1 / b.n))
    return _student(math.log(b.mean / a.mean), stderr, df, min(a.n, b.n), exp_capped)


@dataclass(frozen=True)
class _Clustered:
    """A mean over ``n`` clusters.

    ``stderr`` is None for a single cluster, ``df`` are its degrees of freedom; ``spread`` is the
    standard deviation of a cluster's mean.
    """

    mean: float
    stderr: float | None
    n: int
    df: float = 0.0
    spread: float = 0.0


def clustered_mean(
    sums: Sequence[float], counts: Sequence[int], in_order: bool = True
) -> tuple[float, float | None]:
    """sum(sums)/sum(counts) and its standard error over clusters; None for a single cluster.

    Tokens of one cluster, such as a chunk of a text, are not independent. The variance is that of a
    ratio estimator (Cochran, Sampling Techniques, 3rd ed., 6.3): sum((sums_i - mean * counts_i)²)
    / (k (k - 1)), over (mean count)², for k clusters. ``in_order``: neighbours are alike, as chunks
    of one text are, and k of them say as much as k (1 - r)/(1 + r) independent ones, r being their
    correlation (`neighbour_correlation`). Raises ValueError for none.
    """
    found = _cluster(sums, counts, in_order)
    return found.mean, found.stderr


def _cluster(sums: Sequence[float], counts: Sequence[int], in_order: bool) -> _Clustered:
    if not counts or not sum(counts):
        raise ValueError("no cluster to take a mean of")
    total, k = sum(counts), len(counts)
    mean = math.fsum(sums) / total
    if k < 2:
        return _Clustered(mean, None, k)
    rest = [s - mean * c for s, c in zip(sums, counts, strict=True)]
    r = neighbour_correlation(rest) if in_order else 0.0
    more = (1 + r) / (1 - r)
    alone = math.fsum(x * x for x in rest) / (k - 1)
    # Fewer chunks than these show no correlation, so that there is none to be unsure of.
    df = (k - 1) / (1 + 2 * more) if in_order and k >= FEWEST_CLUSTERS else k - 1
    size = total / k
    return _Clustered(
        mean, math.sqrt(alone * more / k) / size, k, max(1.0, df), math.sqrt(alone) / size
    )


def neighbour_correlation(rest: Sequence[float]) -> float:
    """The correlation of neighbours, from what is left around a mean; 0 to 0.9.

    An autoregression of first order. The estimate r of n values is too low by (1 + 3r)/n (Marriott
    and Pope 1954, Biometrika 41), which is undone. Of fewer than `FEWEST_CLUSTERS` it is unknown
    and taken to be 0.
    """
    n, squares = len(rest), math.fsum(x * x for x in rest)
    if n < FEWEST_CLUSTERS or not squares:
        return 0.0
    found = math.fsum(a * b for a, b in pairwise(rest)) / squares
    return min(0.9, max(0.0, (n * found + 1) / (n - 3)))


def clustered_interval(
    sums: Sequence[float],
    counts: Sequence[int],
    transform: Callable[[float], float] = float,
    in_order: bool = True,
) -> Estimate | None:
    """`clustered_mean` ± t·SE.

    Of k clusters in order both their variance and the correlation r of neighbours are estimated.
    The logarithm of the variance of the mean is that of the innovations' variance less 2·ln(1 - r);
    with asymptotic variances 2/k and (1 - r²)/k (Brockwell and Davis, Time Series, 2nd ed., 8.8) it
    varies by 2/k·(1 + 2(1 + r)/(1 - r)), and so has (k - 1)/(1 + 2(1 + r)/(1 - r)) degrees of
    freedom (Satterthwaite 1946, Biometrics Bulletin 2). Of clusters that are independent: k - 1.

    None for fewer than two clusters, in order for fewer than `FEWEST_CLUSTERS` that are not alike.
    ``transform`` is `exp_capped` for a ratio of perplexities, exp of a mean difference in nats.
    """
    found = _cluster(sums, counts, in_order)
    few = in_order and found.n < FEWEST_CLUSTERS
    if found.stderr is None or (few and found.stderr):
        return None
    return _student(found.mean, found.stderr, found.df, found.n, transform)


def positive_interval(sums: Sequence[float], counts: Sequence[int]) -> Estimate | None:
    """`clustered_mean` of a positive quantity with a long upper tail, such as divergence.

    mean · exp(±t·r + (k·(1 + 2t²)/6 - t²/2)·r²), r = SE/mean: Student's t on the logarithm,
    corrected to second order for clusters whose skewness is k times their coefficient of variation
    c (Hall 1992, The Bootstrap and Edgeworth Expansion, 3.10, for a logarithm). Few clusters do not
    show their skewness, and a symmetric interval ends too low. So either end is that of the
    distribution which puts it farther out: below the gamma's, k = 2, above the lognormal's,
    k = 3 + c². The lower end falls no farther where the correction would raise it again. None where
    `clustered_interval` is, clusters being in order, and for a mean that is not positive.
    """
    found = _cluster(sums, counts, in_order=True)
    if found.stderr is None or found.n < FEWEST_CLUSTERS or found.mean <= 0:
        return None
    mean, r, c = found.mean, found.stderr / found.mean, found.spread / found.mean

    def ends(probability: float) -> tuple[float, float]:
        t = t_quantile(probability, found.df)
        low_r = min(r, 3 * t / (t**2 + 2))
        low = -t * low_r + (t**2 + 2) / 6 * low_r**2
        high = t * r + ((3 + c**2) * (1 + 2 * t**2) / 6 - t**2 / 2) * r**2
        return mean * math.exp(low), mean * exp_capped(high)

    return Estimate(mean, *ends(0.975), *ends(0.95), found.stderr, found.n, df=found.df)


def bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The number between from which on ``holds`` is true, to 1e-12."""
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return (low + high) / 2


def t_quantile(probability: float, df: float) -> float:
    """Student's t; the normal's for infinite degrees of freedom."""
    if math.isinf(df):
        return NormalDist().inv_cdf(probability)
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def _student(
    mean: float, stderr: float, df: float, n: int, transform: Callable[[float], float]
) -> Estimate:
    """An estimate whose t interval is symmetric before ``transform``."""
    from scipy.special import stdtr

    reach, side = (t_quantile(q, df) * stderr for q in (0.975, 0.95))
    p = 2 * float(stdtr(df, -abs(mean) / stderr)) if stderr else float(mean == 0)
    value = transform(mean)
    low, high, lower, upper = (transform(mean + x) for x in (-reach, reach, -side, side))
    # The only other transform is exp, with itself as its derivative.
    own = stderr if transform is float else value * stderr
    return Estimate(value, low, high, lower, upper, own, n, p, df)


def _logarithms(samples: Sequence[float]) -> list[float]:
    if not all(sample > 0 for sample in samples):
        raise ValueError(f"logarithms need positive samples, found {min(samples)}")
    return [math.log(sample) for sample in samples]
