"""A suite's limits judged on a record: PASS, FAIL or INCONCLUSIVE, and the sentence about it. Pure.

The unrounded value is judged, with the one-sided 95 % bounds of what it is a sample of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.records.record import Record, Value, Verdict
from harness.records.values import base_name, bounds_of, qualify, smallest_effect
from harness.statistics.estimates import NORMAL_95, Outcome, judge_harm
from harness.statistics.power import samples_to_decide
from harness.suite.models import Limit

_WORST: tuple[Outcome, ...] = ("FAIL", "INCONCLUSIVE", "PASS")


def judge_limits(
    limits: Iterable[Limit], record: Record, reference: Record | None, why_not: str
) -> tuple[Verdict, ...]:
    """A verdict per limit on this record and per value that it bounds; none without numbers.

    An invalid record is judged too: its limit on ``nonfinite_tokens`` is what it breaks.
    """
    if record.validity.status in ("failed", "skipped"):
        return ()
    verdicts = []
    for limit in limits:
        applies = record.cell.precision in limit.precision and record.cell.model in limit.model
        if applies and limit.family == record.measurement:
            names = _bounded_values(limit, record)
            verdicts += [_judge(limit, name, record, reference, why_not) for name in names]
    return tuple(verdicts)


def _bounded_values(limit: Limit, record: Record) -> list[str]:
    """The value a limit names; without a qualifier, each of a family such as ``x[1], x[8]``."""
    if limit.qualifier is not None:
        return [qualify(limit.value, limit.qualifier)]
    if record.find(limit.value) is not None:
        return [limit.value]
    family = [n for n in (*record.values, *record.paired) if base_name(n) == limit.value]
    return family or [limit.value]


@dataclass(frozen=True)
class _Side:
    """One ``bound`` of a limit as a harm: how much worse than nothing, and how much is allowed.

    A value that says "no difference" at ``zero`` is judged by its distance from there; any other
    by its distance from the bound.
    """

    sign: int
    bound: float
    zero: float

    @property
    def margin(self) -> float:
        return self.harm(self.bound)

    def is_broken(self, value: float) -> bool:
        return self.sign * value > self.sign * self.bound

    def harm(self, value: float) -> float:
        return self.sign * (value - self.zero)

    def value(self, harm: float) -> float:
        return self.zero + self.sign * harm


def _sides(limit: Limit, spec: ValueSpec) -> list[_Side]:
    given = [(sign, b) for sign, b in ((1, limit.max), (-1, limit.min)) if b is not None]
    neutral = spec.neutral if spec.paired else None
    return [_Side(sign, b, b if neutral is None else neutral) for sign, b in given]


def _judge(
    limit: Limit, name: str, record: Record, reference: Record | None, why_not: str
) -> Verdict:
    metric = f"{limit.family}.{name}"
    bound = ", ".join(
        f"{side} {b:.15g}" for side, b in (("min", limit.min), ("max", limit.max)) if b is not None
    )
    found = record.find(name)
    spec: ValueSpec | None = load_measurement(record.measurement).values.get(base_name(name))
    if found is None or found.value is None or spec is None:
        needs_reference = spec is not None and spec.paired
        reason = why_not if needs_reference and why_not else f"{name} is unavailable"
        text = f"{record.cell.id} {metric} cannot be judged against {bound}: {reason}"
        return Verdict(verdict="INCONCLUSIVE", metric=metric, bound=bound, value=None, text=text)
    value, sides = found.value, _sides(limit, spec)
    bounds = bounds_of(found, spec)
    judged = [(_judge_side(side, value, bounds), side) for side in sides]
    outcome, side = min(judged, key=lambda one: _WORST.index(one[0]))
    smallest = _smallest(side, found, spec, bounds)
    broken = side.bound if side.is_broken(value) else None
    unit = f" {found.unit}" if found.unit else ""
    text = f"{record.cell.id}: {metric} is {_show_beside(value, broken)}{unit}{_show_spread(found)}"
    text += f", the limit is {bound}"
    if name in record.paired and reference is not None:
        text += _describe_pair(name, record, reference)
    if outcome == "INCONCLUSIVE":
        text += f"; {_say_why(side, found, spec, bounds)}"
    if smallest is not None and outcome != "PASS":
        text += f"; harm is seen with 80 % power from {smallest:.4g} on"
    return Verdict(
        verdict=outcome,
        metric=metric,
        bound=bound,
        value=value,
        text=f"{text} ({limit.position}).",
        bounds=bounds,
        smallest_detectable=smallest,
    )


def _judge_side(side: _Side, value: float, bounds: tuple[float, float] | None) -> Outcome:
    if bounds is None:
        return "INCONCLUSIVE"
    if bounds[0] == bounds[1]:
        return "FAIL" if side.is_broken(value) else "PASS"
    lower, upper = sorted(side.harm(bound) for bound in bounds)
    return judge_harm(side.harm(value), lower, upper, side.margin)


def _smallest(
    side: _Side, found: Value, spec: ValueSpec, bounds: tuple[float, float] | None
) -> float | None:
    """The smallest harm that would have been called FAIL in four of five runs, as a value."""
    if bounds is None or found.value is None or bounds[0] == bounds[1]:
        return None
    spread = found.stderr or (bounds[1] - bounds[0]) / (2 * NORMAL_95)
    gain = min(0.0, side.margin)  # where one is demanded the distance from that counts
    seen = smallest_effect(found, spec, spread, max(0.0, side.margin))
    return None if seen is None else side.value(gain + seen)


def _say_why(side: _Side, found: Value, spec: ValueSpec, bounds: tuple[float, float] | None) -> str:
    """What leaves a limit undecided, and how much more would decide it."""
    if bounds is None and spec.sampled == "processes":
        return (
            "one process says nothing of how the next would differ: measure in several, with "
            "`processes: 3` or more"
        )
    if bounds is None or found.value is None or found.n is None:
        return "a single chunk has no spread: take a longer text, or a shorter context"
    harm = side.harm(found.value)
    lower, upper = sorted(side.harm(bound) for bound in bounds)
    reach = NORMAL_95 * (found.stderr or (upper - lower) / (2 * NORMAL_95))
    enough = samples_to_decide(harm, reach, found.n, side.margin)
    what = {"items": "chunks or items", "processes": "processes"}.get(spec.sampled or "", "samples")
    undecided = f"{found.n} {what} do not decide it, the truth may be {_show_range(bounds)}"
    return undecided if enough is None else f"{undecided}: about {enough:,} would"


def _show_range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.4g} to {bounds[1]:.4g}"


def _show_spread(value: Value) -> str:
    """How sure the value is; nothing for what is exact or unknown."""
    if value.interval is not None:
        low, high = value.interval
        return f" (95 % interval {low:.4g} to {high:.4g})"
    return f" ± {value.stderr:.2g}" if value.stderr else ""


def _show_beside(value: float, bound: float | None) -> str:
    """Six digits; all of them for an integer, and where six would hide what broke ``bound``."""
    if isinstance(value, int):
        return str(value)
    short = f"{value:.6g}"
    return short if bound is None or (float(short) > bound) == (value > bound) else repr(value)


def _describe_pair(name: str, record: Record, reference: Record) -> str:
    """Both sides of what the paired value ``name`` compares, at the same batch size."""
    of = load_measurement(record.measurement).values[base_name(name)].of
    compared = f"{of}{name.removeprefix(base_name(name))}"
    ours, theirs = record.values.get(compared), reference.values.get(compared)
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return ""
    shown = f"{compared} {ours.value:.6g}"
    return f"; {shown}, reference {reference.cell.precision} {theirs.value:.6g}"
