"""Where a harm becomes a verdict: one rule for limits, thresholds and comparisons. Pure.

A harm says how much worse a value is, positive for worse, in the unit of its margin. `judge_harm`
is the rule, which docs/verdicts.md describes. Quantities without a spread are judged plainly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.descriptions import ValueSpec
from harness.records.record import Outcome, Value
from harness.statistics.estimates import NORMAL_95, t_quantile
from harness.statistics.power import (
    degrees_of_freedom,
    samples_to_decide,
    smallest_detectable,
    smallest_detectable_share,
)

# 3 % of two sides, so that equal speeds fail in less than 2 of 100 comparisons: at the usual 5 % it
# was 2.6 (benchmarks/calibration.py).
FALSE_DISCOVERY_RATE = 0.03
# Fewer chunks than this do not show what they could detect: their own spread is too uncertain
# (benchmarks/calibration.py: with 10 windows 65 % was detected of what should have been 80).
_FEWEST_CHUNKS = 20
_SAMPLES = {"items": "chunks or items", "processes": "processes"}
_BY_CHANCE = "equal runs differ this much by chance (p = {:.2g})"
_AMONG_MANY = "among this many comparisons one differs this much by chance (q = {:.2g})"
_ONE_PROCESS = "one process does not show how much the next would differ: measure in 3 or more"
_ONE_CHUNK = "a single chunk has no spread: take a longer text"


@dataclass(frozen=True)
class Harm:
    """How much worse a value is, and how sure that is.

    - ``bounds``: one-sided 95 % bounds; None where a single sample shows no spread; both equal to
      ``estimate`` for an exact quantity.
    - ``stderr``: standard error of the estimate, with ``df`` degrees of freedom.
    - ``sampled``: what it is a sample of, and ``n`` of how many: items (or chunks of a text),
      processes (on each side, were they equally many), or blessed runs.
    - ``flips``: share of items right on one side only, where the harm is a difference of shares.
    - ``p``: two-sided p-value of no difference, unadjusted.
    """

    estimate: float
    bounds: tuple[float, float] | None
    stderr: float = 0.0
    df: float = math.inf
    sampled: Literal["items", "processes", "runs"] | None = None
    n: int = 0
    flips: float | None = None
    p: float | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the estimate has no spread at all."""
        return self.bounds is not None and self.bounds[0] == self.bounds[1]


@dataclass(frozen=True)
class Decision:
    """A verdict, why it is INCONCLUSIVE, and what could have been seen.

    ``smallest_detectable`` is the smallest harm that would have been called FAIL in four of five
    runs, None for exact quantities and unknown spreads.
    """

    outcome: Outcome
    why: str = ""
    smallest_detectable: float | None = None


def decide(
    harm: Harm,
    margin: float,
    confidence: float = 0.95,
    largest_p: float | None = None,
    doubt: str = "",
) -> Decision:
    """The verdict on ``harm``, of which ``margin`` is allowed.

    ``largest_p`` is the largest p-value of a FAIL (None: any), ``doubt`` what speaks against a
    FAIL, such as a busy machine. ``confidence`` is the one-sided confidence that a FAIL takes in
    all, for the smallest detectable harm.
    """
    if harm.bounds is None:
        why = _ONE_PROCESS if harm.sampled == "processes" else _ONE_CHUNK
        return Decision("INCONCLUSIVE", why)
    if harm.is_exact:
        return Decision("FAIL" if harm.estimate > margin else "PASS")
    smallest = _find_smallest(harm, margin, confidence)
    outcome = judge_harm(harm.estimate, *harm.bounds, margin)
    why = ""
    if outcome == "INCONCLUSIVE":
        why = _explain_few(harm, harm.bounds, margin)
    elif outcome == "FAIL" and doubt:
        why = f"flagged: {doubt}"
    elif outcome == "FAIL" and largest_p is not None and (harm.p or 0.0) > largest_p:
        why = _BY_CHANCE.format(harm.p)
    return Decision("INCONCLUSIVE" if why else outcome, why, smallest)


def judge_harm(harm: float, lower: float, upper: float, margin: float) -> Outcome:
    """The non-inferiority verdict on a harm (positive is worse) with one-sided 95 % bounds.

    PASS where the harm is surely within the margin: upper <= margin. FAIL where there surely is
    one and the estimate is beyond the margin: lower > 0 and harm > margin; for a negative margin,
    which demands a gain, lower > margin. INCONCLUSIVE otherwise.
    """
    if upper <= margin:
        return "PASS"
    return "FAIL" if harm > margin and lower > min(0.0, margin) else "INCONCLUSIVE"


def harm_of(value: Value, spec: ValueSpec, sign: int, zero: float) -> Harm:
    """How far ``value`` is beyond ``zero`` (``sign`` 1: above is worse, -1: below is worse)."""
    assert value.value is not None
    estimate = sign * (value.value - zero)
    ends = bounds_of(value, spec)
    if ends is None:
        return Harm(estimate, None, sampled=spec.sampled)
    lower, upper = sorted(sign * (end - zero) for end in ends)
    if ends[0] == ends[1]:
        return Harm(estimate, (estimate, estimate))
    n, flips = value.n or 0, None
    is_share = spec.sampled == "items" and spec.of is not None and spec.unit == ""
    if is_share and spec.neutral == 0 and n:
        flips = (value.stderr or 0.0) ** 2 * n + value.value**2
    df = _find_df(value, is_ratio=spec.paired and spec.neutral == 1)
    return Harm(
        estimate,
        (lower, upper),
        stderr=value.stderr or (ends[1] - ends[0]) / (2 * NORMAL_95),
        df=n - 1 if math.isinf(df) and spec.sampled == "items" and n else df,
        sampled=spec.sampled,
        n=n,
        flips=flips,
        p=value.p,
    )


def bounds_of(value: Value, spec: ValueSpec) -> tuple[float, float] | None:
    """One-sided 95 % bounds: the number itself where it is exact, None where nothing is known.

    Those stored with the value; else ± t(0.95)·SE with one degree of freedom less than samples.
    """
    if value.value is None or value.bounds is not None:
        return value.bounds
    if spec.sampled is None:
        return (value.value, value.value)
    if spec.sampled == "processes" or value.stderr is None or value.n is None or value.n < 2:
        return None
    reach = t_quantile(0.95, value.n - 1) * value.stderr
    return (value.value - reach, value.value + reach)


def adjust_for_many(ps: Sequence[float]) -> list[tuple[float, str]]:
    """Each comparison's q-value, and why a FAIL with it is left open ("" where it is kept)."""
    largest = FALSE_DISCOVERY_RATE
    return [
        (q, _BY_CHANCE.format(p) if p > largest else _AMONG_MANY.format(q) if q > largest else "")
        for p, q in zip(ps, benjamini_hochberg(ps), strict=True)
    ]


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values: those at most q have a false discovery rate of q (1995, JRSS B 57)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i], reverse=True)
    adjusted, least = [0.0] * len(ps), 1.0
    for rank, index in zip(range(len(ps), 0, -1), order):
        least = min(least, ps[index] * len(ps) / rank)
        adjusted[index] = least
    return adjusted


def _explain_few(harm: Harm, bounds: tuple[float, float], margin: float) -> str:
    """Why nothing is decided, and how many samples would, by the bound that must move."""
    if harm.sampled == "runs":
        return f"the spread is that of {harm.n} blessed runs: more of them would narrow it"
    if harm.sampled == "items":  # their bounds may be held at 0 by the test, and would stay there
        reach = NORMAL_95 * harm.stderr
    else:
        reach = abs(bounds[harm.estimate <= margin] - harm.estimate)
    enough = samples_to_decide(harm.estimate, reach, harm.n, margin)
    few = f"{harm.n:,} {_SAMPLES.get(harm.sampled or '', 'samples')} do not decide it"
    return few if enough is None else f"{few}: about {enough:,} would"


def _find_smallest(harm: Harm, margin: float, confidence: float) -> float | None:
    """Where a gain is demanded, the distance from that counts."""
    gain, allowed = min(0.0, margin), max(0.0, margin)
    if harm.flips is not None:
        return gain + smallest_detectable_share(harm.n, harm.flips, allowed, confidence)
    if harm.sampled == "items" and harm.n < _FEWEST_CHUNKS:
        return None
    return gain + smallest_detectable(harm.stderr, allowed, harm.df, confidence)


def _find_df(value: Value, is_ratio: bool) -> float:
    """Degrees of freedom, from how far the 95 % interval reaches; infinite where there is none."""
    if value.value is None or not value.stderr or value.interval is None:
        return math.inf
    high = value.interval[1]
    if high <= value.value:
        return math.inf
    if is_ratio:
        return degrees_of_freedom(math.log(high / value.value), value.stderr / value.value)
    return degrees_of_freedom(high - value.value, value.stderr)
