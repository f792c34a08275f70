"""Where a harm becomes a verdict: two rules, for limits and for changes. Pure.

A harm says how much worse a value is, positive for worse, in the unit of its margin. A *limit* is a
promise: FAIL where the truth is surely beyond it. A *change*, from what was blessed or another run,
is FAIL where something surely got worse, by more than the margin. docs/verdicts.md describes both.
Quantities without a spread are judged plainly.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.descriptions import ValueSpec
from harness.records.record import Outcome, Value
from harness.statistics.estimates import FEWEST_CLUSTERS, NORMAL_95, t_quantile
from harness.statistics.power import (
    items_to_pass,
    samples_to_decide,
    smallest_detectable,
    smallest_detectable_share,
)

# How often any of the values that are compared at once may FAIL though none got worse.
FALSE_ALARMS = 0.02
# How often any limit may FAIL though every truth is just within its own.
FALSE_LIMITS = 0.05
# The standard deviation that nights of one machine are taken to have where fewer than three show
# it. Seen: 2 % between nights where processes of one night differed by 0.5 %.
NIGHT_SPREAD = 0.02
# Fewer chunks than this do not show what they could detect: their own spread is too uncertain
# (benchmarks/calibration.py: with 10 windows 65 % was detected of what should have been 80).
_FEWEST_CHUNKS = 20
_BY_CHANCE = "equal runs differ this much by chance (p = {:.2g})"
_AMONG_MANY = "among this many comparisons one differs this much by chance (q = {:.2g})"
_AMONG_LIMITS = "among this many limits one seems broken this clearly by chance (p = {:.2g})"
_NIGHTS = (
    f"nights of one machine may differ by {NIGHT_SPREAD:.0%} and more: measure both in one night, "
    "in turn"
)
_ONE_PROCESS = "one process does not show how much the next would differ: measure in 3 or more"
_ONE_RUN = (
    "one run was blessed, and it cannot be compared with this one chunk by chunk: bless it anew"
)
_FEW_CHUNKS = f"its spread needs {FEWEST_CLUSTERS} chunks or more: take a longer text"

Question = Literal["limit", "change"]


@dataclass(frozen=True)
class Harm:
    """How much worse a value is, and how sure that is.

    - ``bounds``: one-sided 95 % bounds; None where a single sample shows no spread; both equal to
      ``estimate`` for an exact quantity.
    - ``stderr``: standard error of the estimate, with ``df`` degrees of freedom.
    - ``sampled``: what it is a sample of, and ``n`` of how many: items, chunks of a
      text, processes (on each side, were they equally many), pairs of them, blessed runs or
      blessed nights.
    - ``flips``: share of items right on one side only, where the harm is a difference of shares.
    - ``error``: how often one of ``bounds`` may be wrong.
    - ``p``: one-sided p-value of no harm, unadjusted, of a paired value; else the bounds tell it.
    - ``allowance``: what a night may add to every value of a machine; a FAIL has to be clear of it,
      and ``stderr`` is that of the rest.
    - ``night``: the standard deviation that two nights may add to the difference, unseen by
      ``bounds`` and ``stderr``; a PASS or a FAIL has to be clear of it.
    """

    estimate: float
    bounds: tuple[float, float] | None
    stderr: float = 0.0
    df: float = math.inf
    sampled: Literal["items", "chunks", "processes", "pairs", "runs", "nights"] | None = None
    n: int = 0
    flips: float | None = None
    p: float | None = None
    night: float = 0.0
    allowance: float = 0.0
    error: float = 0.05

    @property
    def is_exact(self) -> bool:
        """Whether the estimate has no spread at all."""
        return self.bounds is not None and self.bounds[0] == self.bounds[1]

    def scale(self, unit: float) -> "Harm":
        """The same harm, a share, as so much of ``unit``."""
        bounds = self.bounds and (self.bounds[0] * unit, self.bounds[1] * unit)
        return replace(
            self, estimate=self.estimate * unit, bounds=bounds, stderr=self.stderr * unit
        )

    @property
    def bounds_with_night(self) -> tuple[float, float] | None:
        """``bounds``, and beyond them what two nights may add unseen.

        Independent errors add up by the squares of their reaches (Zou and Donner 2008, Statistics
        in Medicine 27, 1693-1702).
        """
        if self.bounds is None or not self.night:
            return self.bounds
        below, above = (
            math.hypot(end - self.estimate, t_quantile(1 - self.error, math.inf) * self.night)
            for end in self.bounds
        )
        return self.estimate - below, self.estimate + above

    @property
    def stderr_with_night(self) -> tuple[float, float]:
        """The standard error with what two nights may add, and its degrees of freedom.

        Satterthwaite's, the spread of nights being given.
        """
        square = self.stderr**2 + self.night**2
        df = self.df * (square / self.stderr**2) ** 2 if self.stderr else math.inf
        return math.sqrt(square), df

    def p_beyond(self, margin: float) -> float:
        """One-sided p-value of a harm of at most ``margin``: 5 % where the lower bound is at it."""
        from scipy.special import stdtr

        assert self.bounds is not None
        if self.night:
            stderr, df = self.stderr_with_night
            return float(stdtr(min(df, 1e9), (margin - self.estimate) / stderr))
        if self.p is not None and not margin:
            return self.p
        if self.sampled in ("processes", "pairs", "runs", "nights") and self.stderr:
            beyond = self.estimate - margin - self.allowance
            return float(stdtr(min(self.df, 1e9), -beyond / self.stderr))
        reach = self.estimate - self.bounds[0]
        if reach <= 0:
            return float(self.bounds[0] <= margin)
        distance = (self.estimate - margin) / reach * t_quantile(0.95, self.df)
        return float(stdtr(min(self.df, 1e9), -distance))


@dataclass(frozen=True)
class Decision:
    """A verdict, why it is INCONCLUSIVE, and what could have been seen.

    ``smallest_detectable`` is the smallest harm that would have been called FAIL in four of five
    runs, None for exact quantities and unknown spreads. ``p`` is the one-sided p-value of a FAIL,
    ``enough`` the number of samples with which four of five runs would decide.
    """

    outcome: Outcome
    why: str = ""
    smallest_detectable: float | None = None
    p: float | None = None
    enough: int | None = None


def decide(
    harm: Harm,
    margin: float,
    question: Question = "change",
    largest_p: float = FALSE_ALARMS,
    doubts: Mapping[Outcome, str] | None = None,
) -> Decision:
    """The verdict on ``harm``, of which ``margin`` is allowed.

    ``largest_p`` is the largest one-sided p-value of a FAIL: that of a harm beyond ``margin`` for a
    limit, of any harm at all for a change. ``doubts`` are what speaks against an outcome, such as a
    machine that was busy against a FAIL.
    """
    bounds = harm.bounds_with_night
    if bounds is None:
        unknown = {"processes": _ONE_PROCESS, None: _ONE_RUN}
        return Decision("INCONCLUSIVE", unknown.get(harm.sampled, _FEW_CHUNKS))
    if bounds[0] == bounds[1]:
        return Decision("FAIL" if harm.estimate > margin else "PASS")
    p = harm.p_beyond(margin if question == "limit" else 0.0)
    smallest = _find_smallest(harm, margin, question, 1 - largest_p)
    outcome = judge_harm(harm.estimate, *bounds, margin, question)
    why, enough = "", None
    if outcome == "INCONCLUSIVE" and harm.night:
        why = _NIGHTS  # more processes of the same nights would not tell
    elif outcome == "INCONCLUSIVE":
        why, enough = _explain_few(harm, margin, question, 1 - largest_p)
    elif doubt := (doubts or {}).get(outcome):
        why = f"flagged: {doubt}"
    elif outcome == "FAIL" and p > largest_p:
        chance = _AMONG_LIMITS if question == "limit" else _BY_CHANCE
        why = _NIGHTS if harm.night else chance.format(p)
    return Decision("INCONCLUSIVE" if why else outcome, why, smallest, p, enough)


def judge_harm(
    harm: float, lower: float, upper: float, margin: float, question: Question = "change"
) -> Outcome:
    """The verdict on a harm (positive is worse) with one-sided 95 % bounds.

    PASS where the harm is surely within the margin: upper <= margin. FAIL for a limit where it is
    surely beyond: lower > margin; for a change where there surely is one and the estimate is beyond
    the margin: lower > 0 and harm > margin. INCONCLUSIVE otherwise.
    """
    if upper <= margin:
        return "PASS"
    is_worse = lower > margin if question == "limit" else harm > margin and lower > 0
    return "FAIL" if is_worse else "INCONCLUSIVE"


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
    return Harm(
        estimate,
        (lower, upper),
        stderr=value.stderr or (ends[1] - ends[0]) / (2 * NORMAL_95),
        df=find_df(value),
        sampled=spec.sampled,
        n=n,
        flips=flips,
        # That of any other value is of being zero, not of being at its limit.
        p=one_sided(value.p, estimate) if spec.paired and zero == spec.neutral else None,
    )


def one_sided(p: float | None, estimate: float) -> float | None:
    """The p-value of no harm from the two-sided one of no difference."""
    return None if p is None else p / 2 if estimate > 0 else 1 - p / 2


def bounds_of(value: Value, spec: ValueSpec) -> tuple[float, float] | None:
    """One-sided 95 % bounds: the number itself where it is exact, None where nothing is known.

    Those stored with the value; else ± t(0.95)·SE with one degree of freedom less than samples, for
    `FEWEST_CLUSTERS` of them or more.
    """
    if value.value is None or value.bounds is not None:
        return value.bounds
    if spec.sampled is None:
        return (value.value, value.value)
    if spec.sampled == "processes" or value.stderr is None or (value.n or 0) < FEWEST_CLUSTERS:
        return None
    assert value.n is not None
    reach = t_quantile(0.95, value.n - 1) * value.stderr
    return (value.value - reach, value.value + reach)


def adjust_for_many(ps: Sequence[float]) -> list[tuple[float, str]]:
    """Each comparison's q-value, and why a FAIL with it is left open ("" where it is kept).

    ``ps`` are one-sided: what got better does not make harm look surer.
    """
    return [(q, _AMONG_MANY.format(q) if q > FALSE_ALARMS else "") for q in benjamini_hochberg(ps)]


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values: those at most q have a false discovery rate of q (1995, JRSS B 57)."""
    order = sorted(range(len(ps)), key=lambda i: ps[i], reverse=True)
    adjusted, least = [0.0] * len(ps), 1.0
    for rank, index in zip(range(len(ps), 0, -1), order):
        least = min(least, ps[index] * len(ps) / rank)
        adjusted[index] = least
    return adjusted


def _explain_few(
    harm: Harm, margin: float, question: Question, confidence: float
) -> tuple[str, int | None]:
    """Why nothing is decided, and how many samples would in four of five runs, if what is true?

    A change within its margin is taken to be none, any other harm to be what it seems.
    """
    if harm.sampled in ("runs", "nights"):
        assert harm.bounds is not None
        blessed = f"{harm.n} blessed {harm.sampled}"
        if harm.bounds[1] - harm.estimate > margin:
            few = f"this machine cannot hold this margin: {blessed} differ by more"
        else:
            few = f"the spread is that of {blessed}: more of them would narrow it"
        return few, None
    few = f"{harm.n:,} {harm.sampled or 'samples'} do not decide it"
    if harm.estimate <= margin:
        assumed = harm.estimate if question == "limit" else min(0.0, harm.estimate)
        truth = "it is as it seems" if assumed else "nothing changed"
        if harm.flips and not assumed:
            enough: int | None = max(harm.n + 1, items_to_pass(margin, harm.flips))
        else:
            gap = margin - assumed
            enough = samples_to_decide(harm.stderr, harm.n, gap, harm.df, 1 - harm.error)
    else:
        beyond, truth = harm.estimate - margin, "it is as it seems"
        if question == "limit":
            enough = samples_to_decide(harm.stderr, harm.n, beyond, harm.df, confidence)
        else:  # the bound has to be beyond 0, and the estimate beyond the margin
            shown = samples_to_decide(harm.stderr, harm.n, harm.estimate, harm.df, confidence)
            above = samples_to_decide(harm.stderr, harm.n, beyond, harm.df, confidence=0.5)
            enough = None if shown is None or above is None else max(shown, above)
    if enough is not None:
        few += f"; about {enough:,} would, in 4 of 5 runs, if {truth}"
    return few, enough


def _find_smallest(
    harm: Harm, margin: float, question: Question, confidence: float
) -> float | None:
    """Beyond the limit itself, or beyond the margin of a change."""
    beyond, allowed = (margin, 0.0) if question == "limit" else (0.0, margin)
    if harm.flips is not None:
        by_chance = harm.flips - abs(harm.estimate)
        return smallest_detectable_share(harm.n, by_chance, allowed, confidence, null=beyond)
    if harm.sampled in ("items", "chunks") and harm.n < _FEWEST_CHUNKS:
        return None
    stderr, df = harm.stderr_with_night
    rest = max(0.0, allowed - harm.allowance)
    return beyond + harm.allowance + smallest_detectable(stderr, rest, df, confidence)


def find_df(value: Value) -> float:
    """Degrees of freedom of a standard error: one less than samples, unless the value says else."""
    n = value.n or 0
    return value.df if value.df is not None else n - 1 if n > 1 else math.inf
