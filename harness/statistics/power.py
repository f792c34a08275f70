"""What a number of samples can detect, and how many would be enough. Pure.

scipy is imported where it is used.
"""

import math
from statistics import NormalDist

from harness.statistics.estimates import bisect, t_quantile

# For "detected four times in five"; a little more, as spreads are estimates themselves.
AIMED_POWER = 0.88


def smallest_detectable(
    stderr: float,
    margin: float = 0.0,
    df: float = math.inf,
    confidence: float = 0.95,
    power: float = AIMED_POWER,
) -> float:
    """The smallest harm that a verdict calls FAIL with this power.

    A FAIL needs an estimate beyond max(margin, t(confidence)·SE); the estimate of a harm h is with
    this power, where h = max(margin, t(confidence)·SE) + t(power)·SE. A spread estimated from few
    samples is more often too small than too large, so its median is used: s·√(df/χ²(0.5, df)).
    """
    if math.isfinite(df):
        from scipy.special import chdtri

        stderr *= math.sqrt(df / float(chdtri(df, 0.5)))
    return max(margin, t_quantile(confidence, df) * stderr) + t_quantile(power, df) * stderr


def smallest_detectable_share(
    n: int, flip_rate: float, margin: float, confidence: float = 0.95
) -> float:
    """`smallest_detectable` of a paired difference of right items.

    SE = sqrt((f - d²)/n) grows with the drop d: items lost add to those that flip anyway.
    """

    def seen_at(drop: float) -> float:
        rate = min(1.0, flip_rate + drop)
        stderr = math.sqrt(max(rate - drop**2, 0.0) / n)
        return smallest_detectable(stderr, margin, confidence=confidence)

    return bisect(lambda drop: seen_at(drop) <= drop, 0.0, 1.0)


def smallest_detectable_drop(n: int, flip_rate: float, power: float = 0.8) -> float:
    """The smallest paired accuracy drop that n items detect, two-sided 95 %, at this flip rate.

    Solves n = (z(0.975)·sqrt(f) + z(power)·sqrt(f - d²))²/d² (Connor 1987, Biometrics 43). A
    drop cannot exceed the flip rate, which is returned where even that is not detected.
    """
    return bisect(lambda drop: items_needed(drop, flip_rate, power) <= n, 0.0, flip_rate)


def items_needed(drop: float, flip_rate: float, power: float = 0.8) -> float:
    """Items that detect a paired accuracy ``drop``; see `smallest_detectable_drop`."""
    z, z_power = (NormalDist().inv_cdf(q) for q in (0.975, power))
    rest = max(0.0, flip_rate - drop**2)
    return (z * math.sqrt(flip_rate) + z_power * math.sqrt(rest)) ** 2 / drop**2


def samples_to_decide(harm: float, reach: float, n: int, margin: float) -> int | None:
    """How many samples instead of ``n`` would decide, if the harm stays what it is.

    ``reach`` is the distance of the one-sided bound that must move, and shrinks with the square
    root of the samples. None where no number would: the harm is exactly the margin, or there is
    none to be shown.
    """
    gap = margin - harm if harm <= margin else harm - min(0.0, margin)
    if gap <= 0 or not math.isfinite(reach):
        return None
    return max(n + 1, math.ceil(n * (reach / gap) ** 2))


def degrees_of_freedom(reach: float, stderr: float) -> float:
    """Of a 95 % t interval that reaches so far to one side; infinite for a normal one."""
    from scipy.special import stdtridf

    ratio = reach / stderr
    return math.inf if ratio <= t_quantile(0.975, 1e6) else float(stdtridf(0.975, ratio))
