"""A suite's limits on a record: PASS, FAIL or INCONCLUSIVE, and the sentence about it. Pure.

The unrounded value is judged, with the one-sided 95 % bounds of what it is a sample of.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from harness.descriptions import ValueSpec
from harness.records.record import Outcome, Record, Value, Verdict
from harness.records.values import base_name, compared_name, find_spec, qualify
from harness.suite.models import Limit
from harness.verdicts.decide import (
    FALSE_LIMITS,
    Decision,
    bounds_of,
    decide,
    find_df,
    harm_of,
)
from harness.verdicts.looks import allow_for_looks, describe_looks, share_error
from harness.verdicts.wording import SEEN, show_estimate, show_numbers

_WORST: tuple[Outcome, ...] = ("FAIL", "INCONCLUSIVE", "PASS")


def judge_limits(
    limits: Iterable[Limit], record: Record, reference: Record | None, why_not: str
) -> tuple[Verdict, ...]:
    """A verdict per limit on this record and per value that it bounds; none without numbers.

    ``why_not`` says why the record was not compared with the reference. An invalid record is
    judged too: its number of non-finite tokens may be what breaks a limit.
    """
    if record.validity.status in ("failed", "skipped"):
        return ()
    limits = tuple(limits)
    # Bonferroni: a record is judged before the others are measured.
    largest_p = FALSE_LIMITS / max(1, count_sampled(limits))
    return tuple(
        _judge(limit, name, record, reference, why_not, largest_p)
        for limit in limits
        if limit.family == record.measurement
        and record.cell.precision in limit.precision
        and record.cell.model in limit.model
        for name in _bounded_values(limit, record)
    )


def count_sampled(limits: Iterable[Limit]) -> int:
    """How many cells' values with a spread these limits bound: each could fail by chance."""
    specs = ((limit, find_spec(limit.family, limit.value)) for limit in limits)
    return sum(
        len(limit.precision) * len(limit.model) for limit, spec in specs if spec and spec.sampled
    )


def show_bound(limit: Limit, digits: str = ".15g") -> str:
    """``min 0.5, max 0.9``, of what the limit has."""
    given = (("min", limit.min), ("max", limit.max))
    return ", ".join(f"{side} {b:{digits}}" for side, b in given if b is not None)


def _bounded_values(limit: Limit, record: Record) -> list[str]:
    """The value a limit names; without a qualifier, each of a family such as ``x[1], x[8]``."""
    if limit.qualifier is not None:
        return [qualify(limit.value, limit.qualifier)]
    if record.find(limit.value) is not None:
        return [limit.value]
    family = [n for n in (*record.values, *record.paired) if base_name(n) == limit.value]
    return family or [limit.value]


def _judge(
    limit: Limit,
    name: str,
    record: Record,
    reference: Record | None,
    why_not: str,
    largest_p: float,
) -> Verdict:
    metric, bound = f"{limit.family}.{name}", show_bound(limit)
    verdict = partial(Verdict, metric=metric, bound=bound, position=limit.position)
    found = record.find(name)
    spec = find_spec(record.measurement, name)
    if found is None or found.value is None or spec is None:
        reason = (why_not if spec and spec.paired else "") or f"{name} is unavailable"
        text = f"{record.cell.id} {metric} cannot be judged against {bound}: {reason}"
        return verdict(verdict="INCONCLUSIVE", value=None, text=text)
    sides = ((1, limit.max), (-1, limit.min))
    errors = share_error(record, spec), share_error(record, spec, largest_p)
    held = allow_for_looks(record, spec, found, find_df(found))
    judged = [
        _judge_side(sign, edge, held, spec, *errors) for sign, edge in sides if edge is not None
    ]
    decision, smallest, broken, seen = min(judged, key=lambda one: _WORST.index(one[0].outcome))
    bounds = bounds_of(held, spec)
    edges = () if broken is None else (broken,)
    interval = found.interval if record.looks is None else None
    shown = show_estimate(found.value, found.unit, interval, bounds, edges)
    text = f"{record.cell.id}: {metric} is {shown}, the limit is {bound}"
    if name in record.paired and reference is not None:
        text += _describe_pair(name, spec, record, reference)
    text += describe_looks(record, spec)
    text += f"; {decision.why}" if decision.why else ""
    if smallest is not None:
        text += f"; {SEEN} {seen} {show_numbers((smallest,), found.unit)[0]}"
    return verdict(
        verdict=decision.outcome,
        value=found.value,
        text=f"{text} ({limit.position}).",
        bounds=bounds,
        smallest_detectable=smallest,
        enough=decision.enough,
    )


def _judge_side(
    sign: int, edge: float, found: Value, spec: ValueSpec, error: float, largest_p: float
) -> tuple[Decision, float | None, float | None, str]:
    """The decision on one side, the smallest detectable harm as a value, the edge if broken.

    Last the words for the side on which harm is. What no ratio and no speed can be is not named.

    ``sign`` is 1 for a maximum and -1 for a minimum. The harm of a value with a number for "no
    difference" is its distance from that number; the harm of any other is that from the edge.
    """
    assert found.value is not None
    neutral = spec.neutral if spec.paired and spec.sampled is not None else None
    zero = edge if neutral is None else neutral
    harmful = replace(harm_of(found, spec, sign, zero), error=error)
    decision = decide(harmful, sign * (edge - zero), "limit", largest_p)
    harm = decision.smallest_detectable
    broken = edge if sign * found.value > sign * edge else None
    smallest = None if harm is None else zero + sign * harm
    is_positive = spec.neutral == 1 or (spec.sampled == "processes" and not spec.paired)
    if smallest is not None and smallest <= 0 and is_positive:
        smallest = None
    return decision, smallest, broken, "at or above" if sign > 0 else "at or below"


def _describe_pair(name: str, spec: ValueSpec, record: Record, reference: Record) -> str:
    """Both sides of what the paired value ``name`` compares, at the same batch size."""
    compared = compared_name(name, spec)
    ours, theirs = record.values.get(compared), reference.values.get(compared)
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return ""
    own, other = show_numbers((ours.value, theirs.value), ours.unit)
    return f"; {compared} {own}, reference {reference.cell.precision} {other}"
