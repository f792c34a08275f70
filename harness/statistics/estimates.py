"""Estimates with their intervals, tests and the verdict on a harm. Pure.

Each function names its formula and source. Intervals of 95 % are for readers; verdicts are made of
one-sided 95 % bounds (the ends of the 90 % interval). scipy is imported where it is used.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]


NORMAL_95 = NormalDist().inv_cdf(0.95)
_LARGEST_LOG = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Estimate:
    """``value``; ``low`` to ``high``, its 95 % interval; ``lower`` and ``upper``, each 95 %.

    ``stderr`` is in the value's own unit; ``p`` the two-sided p-value of no difference, where the
    estimate is one of a difference; ``n`` the independent samples: chunks, items, processes.
    """

    value: float
    low: float
    high: float
    lower: float
    upper: float
    stderr: float | None
    n: int
    p: float | None = None


def exp_capped(x: float) -> float:
    """exp, as large as a float can be where it would overflow: a number that can be judged."""
    return math.exp(min(x, _LARGEST_LOG))


# --- samples of a continuous quantity: processes, chunks ----------------------------------------


def geometric_mean_interval(samples: Sequence[float], level: float = 0.95) -> Estimate:
    """Geometric mean of independent samples: exp(mean ± t·s/√n) of their logarithms.

    Student's t with n - 1 degrees of freedom. Times and rates have skewed spreads that are
    proportional to their size, so their logarithms are what is nearly normal. ``p`` is of a mean
    of 1. Raises ValueError for fewer than two samples or one that is not positive.
    """
    if len(samples) < 2:
        raise ValueError(f"an interval needs at least 2 samples, found {len(samples)}")
    logs = _logarithms(samples)
    spread = stdev(logs) / math.sqrt(len(logs))
    return _student(fmean(logs), spread, len(logs) - 1, len(logs), exp_capped, level)


def paired_ratio_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Estimate:
    """The ratio b/a from pairs measured next to each other: x = ln(b/a), mean ± t·s/√pairs.

    What drifts over minutes is the same for both sides of a pair and cancels. Raises ValueError
    for lists of different lengths and as `geometric_mean_interval` does.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need as many of either side, found {len(a)} and {len(b)}")
    _logarithms((*a, *b))
    return geometric_mean_interval([y / x for x, y in zip(a, b)], level)


@dataclass(frozen=True)
class Processes:
    """A quantity that each of ``n`` processes gave: geometric ``mean``, ``spread`` of one.

    ``spread`` is the standard deviation of the logarithms, None for a single process.
    """

    mean: float
    spread: float | None
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Processes:
        """Raises ValueError for no sample, or one that is not positive."""
        logs = _logarithms(samples)
        return cls(math.exp(fmean(logs)), stdev(logs) if len(logs) > 1 else None, len(logs))


def welch_ratio_interval(a: Processes, b: Processes, level: float = 0.95) -> Estimate:
    """The ratio b/a of two geometric means of processes that were not measured in pairs.

    Welch's t on the logarithms: SE² = s_a²/n_a + s_b²/n_b, degrees of freedom by Satterthwaite.
    A side of unknown spread is given the other side's, as a prediction is. Raises ValueError where
    neither has one.
    """
    if a.spread is None and b.spread is None:
        raise ValueError(f"a spread needs 2 processes of a side, found {a.n} and {b.n}")
    if a.spread is None or b.spread is None:
        known = a if b.spread is None else b
        square = (known.spread or 0.0) ** 2 * (1 / a.n + 1 / b.n)
        df: float = known.n - 1
    else:
        parts = [side.spread**2 / side.n for side in (a, b) if side.spread is not None]
        square = math.fsum(parts)
        below = sum(part**2 / (side.n - 1) for part, side in zip(parts, (a, b)))
        df = square**2 / below if below else a.n + b.n - 2
    mean = math.log(b.mean / a.mean)
    return _student(mean, math.sqrt(square), df, min(a.n, b.n), exp_capped, level)


def pooled_ratio_interval(a: Processes, b: Processes, level: float = 0.95) -> Estimate:
    """As `welch_ratio_interval`, of two groups that are taken to scatter alike: Student's t.

    For the same thing measured at two times: with few processes the pooled spread, of n_a + n_b - 2
    degrees of freedom, says far more. Falls back where a side has no spread.
    """
    if a.spread is None or b.spread is None:
        return welch_ratio_interval(a, b, level)
    df = a.n + b.n - 2
    pooled = ((a.n - 1) * a.spread**2 + (b.n - 1) * b.spread**2) / df
    stderr = math.sqrt(pooled * (1 / a.n + 1 / b.n))
    return _student(math.log(b.mean / a.mean), stderr, df, min(a.n, b.n), exp_capped, level)


def clustered_mean(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float | None]:
    """sum(sums)/sum(counts) and its standard error over clusters; None for a single cluster.

    Tokens of one chunk are not independent, chunks are taken to be. The variance is that of a
    ratio estimator (Cochran, Sampling Techniques, 3rd ed., 6.3):
    sum((sums_i - mean * counts_i)²) / (k (k - 1)), over (mean count)², for k clusters. Raises
    ValueError for none.
    """
    if not counts or not sum(counts):
        raise ValueError("no cluster to take a mean of")
    total, clusters = sum(counts), len(counts)
    mean = math.fsum(sums) / total
    if clusters < 2:
        return mean, None
    squares = math.fsum((s - mean * c) ** 2 for s, c in zip(sums, counts, strict=True))
    return mean, math.sqrt(squares / (clusters * (clusters - 1))) / (total / clusters)


def clustered_interval(
    sums: Sequence[float], counts: Sequence[int], level: float = 0.95
) -> Estimate | None:
    """`clustered_mean` ± t·SE with one degree of freedom less than clusters; None for one."""
    mean, stderr = clustered_mean(sums, counts)
    if stderr is None:
        return None
    return _student(mean, stderr, len(counts) - 1, len(counts), float, level)


def clustered_ratio(
    candidate: Sequence[float],
    reference: Sequence[float],
    counts: Sequence[int],
    level: float = 0.95,
) -> Estimate | None:
    """exp of the mean paired difference of chunks' NLL, a ratio of perplexities; None for one.

    exp(d ± t·SE(d)), d and SE by `clustered_mean`.
    """
    differences = [a - b for a, b in zip(candidate, reference, strict=True)]
    mean, stderr = clustered_mean(differences, counts)
    if stderr is None:
        return None
    return _student(mean, stderr, len(counts) - 1, len(counts), exp_capped, level)


def t_quantile(probability: float, df: float) -> float:
    """Student's t; the normal's for infinite degrees of freedom."""
    if math.isinf(df):
        return NormalDist().inv_cdf(probability)
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def _student(
    mean: float,
    stderr: float,
    df: float,
    n: int,
    transform: Callable[[float], float],
    level: float,
) -> Estimate:
    """An estimate whose t interval is symmetric before ``transform``."""
    from scipy.special import stdtr

    reach = t_quantile((1 + level) / 2, df) * stderr
    side = t_quantile(level, df) * stderr
    p = 2 * float(stdtr(df, -abs(mean) / stderr)) if stderr else float(mean == 0)
    value = transform(mean)
    return Estimate(
        value,
        transform(mean - reach),
        transform(mean + reach),
        transform(mean - side),
        transform(mean + side),
        stderr if transform is float else value * stderr,  # by the derivative of exp
        n,
        p,
    )


def _logarithms(samples: Sequence[float]) -> list[float]:
    if not all(sample > 0 for sample in samples):
        raise ValueError(f"logarithms need positive samples, found {min(samples)}")
    return [math.log(sample) for sample in samples]


# --- items that are right or wrong ---------------------------------------------------------------


def share_interval(count: int, n: int, level: float = 0.95) -> Estimate:
    """A share of n items: Wilson's score interval (Wilson 1927).

    Raises ValueError for a count that is not of 0 to n, and for no items.
    """
    if not 0 <= count <= n or not n:
        raise ValueError(f"expected 0 to n of n items, found {count} of {n}")
    (low, high), (lower, upper) = (
        wilson(count, n, NormalDist().inv_cdf(q)) for q in ((1 + level) / 2, level)
    )
    return Estimate(count / n, low, high, lower, upper, share_stderr(count, n), n)


def share_stderr(count: int, n: int) -> float | None:
    """Standard error of a share of n items: sqrt(p(1 - p)/(n - 1)); None for fewer than two."""
    p = count / n if n else 0.0
    return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None


def flip_rate_interval(flips: int, n: int, level: float = 0.95) -> Estimate:
    """Share of items that flipped, by Clopper and Pearson's exact bounds (1934).

    Without any flip there is one side only, and the bound 1 - 0.05**(1/n), nearly 3/n, and not 0;
    so too where every item flipped.
    """
    from scipy.special import betaincinv

    def bound(tail: float, above: bool) -> float:
        if flips == (n if above else 0):
            return float(above)
        first, second = (flips + 1, n - flips) if above else (flips, n - flips + 1)
        return float(betaincinv(first, second, 1 - tail if above else tail))

    share = share_interval(flips, n)
    one = 1 - level
    two = one if flips in (0, n) else one / 2
    return Estimate(
        share.value,
        bound(two, False),
        bound(two, True),
        bound(one, False),
        bound(one, True),
        math.sqrt(share.value * (1 - share.value) / n) if flips else None,
        n,
    )


def mcnemar_midp(lost: int, won: int) -> float:
    """Two-sided p of as many items lost as won, McNemar's exact test with the mid-p correction.

    2·P(X < min) + P(X = min), X binomial of lost + won at 1/2 (Fagerland, Lydersen and Laake 2013,
    BMC Medical Research Methodology 13:91). 1 where nothing flipped.
    """
    n, least = lost + won, min(lost, won)
    if lost == won:
        return 1.0
    log_half = n * math.log(2)
    terms = [
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - log_half)
        for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(terms[:-1]) + terms[-1])


def paired_difference(lost: int, won: int, n: int, level: float = 0.95) -> Estimate:
    """D = (lost - won)/n on the same n items, with Tango's score interval.

    SE = sqrt((f - D²)/n), f = (lost + won)/n. The interval (Tango 1998, Statistics in Medicine 17,
    891-908) has a width even where nothing flipped: one-sided up to z²/(n + z²). ``p`` is
    McNemar's mid-p, and a bound is beyond 0 only where that p agrees, so that interval and test
    never contradict each other. Raises ValueError for more flips than items.
    """
    if min(lost, won) < 0 or lost + won > n or not n:
        raise ValueError(f"expected at most n flips of n items, found {lost} + {won} of {n}")
    difference, flips = (lost - won) / n, (lost + won) / n
    p = mcnemar_midp(lost, won)
    ends = []
    for quantile, tail in (((1 + level) / 2, 1 - level), (level, 2 * (1 - level))):
        z = NormalDist().inv_cdf(quantile)
        low, high = (_solve_tango(lost, won, n, sign * z) for sign in (1, -1))
        if p > tail:  # two-sided p against both tails
            low, high = min(low, 0.0), max(high, 0.0)
        ends.append((low, high))
    (low, high), (lower, upper) = ends
    stderr = math.sqrt((flips - difference**2) / n) if flips else None
    return Estimate(difference, low, high, lower, upper, stderr, n, p)


def share_ratio_interval(
    both: int, candidate_only: int, reference_only: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Two-sided interval of (both + candidate only) / (both + reference only), paired shares.

    Bonett and Price 2006, Statistics in Medicine 25, 3039-3047: Wilson's intervals of either
    share, with the critical value shrunk for what the two have in common. None without any item
    right on one side.
    """
    ours, theirs = both + candidate_only, both + reference_only
    n = both + candidate_only + reference_only
    if not ours or not theirs:
        return None
    z = NormalDist().inv_cdf(0.5 + level / 2)
    difference = math.sqrt((candidate_only + reference_only + 2) / ((ours + 1) * (theirs + 1)))
    alone = sum(math.sqrt((1 - (x + 1) / (n + 2)) / (x + 1)) for x in (ours, theirs))
    z *= difference / alone
    (low, high), (other_low, other_high) = wilson(ours, n, z), wilson(theirs, n, z)
    return low / other_high, high / other_low


def _solve_tango(lost: int, won: int, n: int, z: float) -> float:
    """The difference at which Tango's score is ``z``; the score falls as the difference rises."""

    def score(delta: float) -> float:
        b = -lost - won + (2 * n - lost + won) * delta
        root = math.sqrt(max(0.0, b * b + 8 * n * won * delta * (1 - delta)))
        only_won = (root - b) / (4 * n)  # the likeliest share of items won, given the difference
        variance = n * (2 * only_won + delta * (1 - delta))
        above = lost - won - n * delta
        if variance <= 0:
            return math.copysign(math.inf, above) if above else 0.0
        return above / math.sqrt(variance)

    low, high = -1.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > z else (low, middle)
    return (low + high) / 2


def wilson(count: int, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval of a share, z standard errors to either side."""
    half = z * math.sqrt(z**2 + 4 * count * (1 - count / n))
    low, high = ((2 * count + z**2 + sign * half) / (2 * (n + z**2)) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


# --- what follows --------------------------------------------------------------------------------


def judge_harm(harm: float, lower: float, upper: float, margin: float) -> Outcome:
    """The non-inferiority verdict on a harm (positive is worse) with one-sided 95 % bounds.

    PASS where the harm is surely within the margin: upper <= margin. FAIL where there surely is
    one and it is beyond the margin: lower > 0 and harm > margin; for a negative margin, which
    demands a gain, lower > margin. INCONCLUSIVE otherwise.
    """
    if upper <= margin:
        return "PASS"
    return "FAIL" if harm > margin and lower > min(0.0, margin) else "INCONCLUSIVE"


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values: those at most q have a false discovery rate of q (1995, JRSS B 57)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i], reverse=True)
    adjusted, least = [0.0] * len(ps), 1.0
    for rank, index in zip(range(len(ps), 0, -1), order):
        least = min(least, ps[index] * len(ps) / rank)
        adjusted[index] = least
    return adjusted
