"""Shares of items that are right or wrong, alone and compared on the same items. Pure.

Each function names its formula and source. scipy is imported where it is used.
"""

import math
from statistics import NormalDist

from harness.statistics.estimates import NORMAL_95, NORMAL_975, Estimate, bisect


def share_interval(count: int, n: int) -> Estimate:
    """A share of n items: Wilson's score interval (Wilson 1927).

    Raises ValueError for a count outside 0 to n, and for no items.
    """
    if not 0 <= count <= n or not n:
        raise ValueError(f"expected 0 to n of n items, found {count} of {n}")
    both, one = (wilson(count, n, z) for z in (NORMAL_975, NORMAL_95))
    return Estimate(count / n, *both, *one, share_stderr(count, n), n)


def wilson(count: int, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval of a share, z standard errors to either side."""
    half = z * math.sqrt(z**2 + 4 * count * (1 - count / n))
    low, high = ((2 * count + z**2 + sign * half) / (2 * (n + z**2)) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def share_stderr(count: int, n: int) -> float | None:
    """Standard error of a share of n items: sqrt(p(1 - p)/(n - 1)); None for fewer than two."""
    p = count / n if n else 0.0
    return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None


def flip_rate_interval(flips: int, n: int) -> Estimate:
    """Share of items that flipped, by Clopper and Pearson's exact bounds (1934).

    Where no item flipped, or every one did, the interval has one side only: without a flip up to
    1 - 0.05**(1/n), nearly 3/n, and not 0.
    """
    from scipy.special import betaincinv

    def bound(tail: float, above: bool) -> float:
        if flips == (n if above else 0):
            return float(above)
        first, second = (flips + 1, n - flips) if above else (flips, n - flips + 1)
        return float(betaincinv(first, second, 1 - tail if above else tail))

    share = share_interval(flips, n).value
    one = 1 - 0.95
    two = one if flips in (0, n) else one / 2
    stderr = math.sqrt(share * (1 - share) / n) if flips else None
    two_sided, one_sided = ((bound(tail, False), bound(tail, True)) for tail in (two, one))
    return Estimate(share, *two_sided, *one_sided, stderr, n)


def mcnemar_midp(lost: int, won: int) -> float:
    """Two-sided p of as many items lost as won, McNemar's exact test with the mid-p correction.

    2·P(X < min) + P(X = min), X binomial of lost + won at 1/2 (Fagerland, Lydersen and Laake 2013,
    BMC Medical Research Methodology 13:91). 1 where nothing flipped.
    """
    from scipy.special import bdtr

    n, least = lost + won, min(lost, won)
    if lost == won:
        return 1.0
    below = float(bdtr(least - 1, n, 0.5)) if least else 0.0
    return min(1.0, below + float(bdtr(least, n, 0.5)))


def paired_difference(lost: int, won: int, n: int) -> Estimate:
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

    def interval(z: float, tails: float) -> tuple[float, float]:
        low, high = (_solve_tango(lost, won, n, sign * z) for sign in (1, -1))
        return (min(low, 0.0), max(high, 0.0)) if p > tails else (low, high)

    two_sided, one_sided = interval(NORMAL_975, 1 - 0.95), interval(NORMAL_95, 2 * (1 - 0.95))
    stderr = math.sqrt((flips - difference**2) / n) if flips else None
    return Estimate(difference, *two_sided, *one_sided, stderr, n, p)


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

    return bisect(lambda delta: score(delta) <= z, -1.0, 1.0)
