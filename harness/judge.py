"""Records + limits -> values beside the reference, and verdicts. Pure; no torch, no files.

Compares plainly: a value is inside its limit or it is not. Intervals come later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.catalog import load_measurement
from harness.options import ValueSpec
from harness.record import Record, Value, Verdict
from harness.suite import Limit, Suite
from harness.values import base_name, qualify

# Keys of a protocol that say how, not what, was measured.
_HOW = frozenset({"method"})


def complete_records(suite: Suite, records: Iterable[Record]) -> tuple[Record, ...]:
    """Every record with its values beside the reference's and its limits judged."""
    records = tuple(records)
    references, noises = (
        {
            (r.cell.model, r.measurement): r
            for r in records
            if r.cell.precision == suite.reference and r.noise is noise
        }
        for noise in (False, True)
    )
    return tuple(
        complete_record(suite, record, references.get(key), noises.get(key))
        for record in records
        for key in [(record.cell.model, record.measurement)]
    )


def complete_record(
    suite: Suite, record: Record, reference: Record | None, noise: Record | None = None
) -> Record:
    """One record with ``paired`` and ``verdicts`` filled in; ``reference`` may be itself.

    ``noise`` is the reference measured a second time: how far it is from the first is each paired
    value's floor.
    """
    paired: dict[str, Value] = {}
    why_not = ""
    if record.noise or record.cell.precision != suite.reference:
        refusal = explain_refusal(record, reference, suite.reference)
        if refusal is None and reference is not None:
            paired = load_measurement(record.measurement).compare(record, reference)
        why_not = refusal or ""
    record = record.model_copy(update={"paired": paired})
    if record.noise:
        return record
    if noise is not None and record.cell.precision != suite.reference:
        record = _add_floors(record, complete_record(suite, noise, reference))
    verdicts = judge_limits(suite.limits, record, reference, why_not)
    return record.model_copy(update={"verdicts": verdicts})


def is_noise(value: Value, spec: ValueSpec) -> bool:
    """Whether a difference is there, but no larger than that of the reference from itself."""
    if value.floor is None or value.value is None or spec.neutral is None:
        return False
    if value.value == spec.neutral:
        return False
    return abs(value.value - spec.neutral) <= value.floor


def _add_floors(record: Record, noise: Record) -> Record:
    """``record`` with the distance of the reference from itself beside each paired value."""
    specs = load_measurement(record.measurement).VALUES

    def with_floor(name: str, value: Value) -> Value:
        spec = specs.get(base_name(name))
        again = noise.find(name) if noise.usable else None
        if spec is None or not spec.paired or spec.neutral is None:
            return value
        if again is None or again.value is None:
            return value
        return value.model_copy(update={"floor": abs(again.value - spec.neutral)})

    values, paired = (
        {name: with_floor(name, value) for name, value in group.items()}
        for group in (record.values, record.paired)
    )
    return record.model_copy(update={"values": values, "paired": paired})


def explain_refusal(record: Record, reference: Record | None, name: str | None) -> str | None:
    """Why a record cannot be compared with its reference's; None where it can."""
    if not record.usable:
        return f"it was not measured ({'; '.join(record.validity.reasons)})"
    if name is None:
        return "the suite names no reference"
    if reference is None:
        return f"the reference {name} was not measured"
    if not reference.usable:
        return f"the reference {name} has no number ({'; '.join(reference.validity.reasons)})"
    differing = differing_fields(record.protocol, reference.protocol)
    if differing:
        return f"incomparable with the reference {name}: {', '.join(differing)} differ"
    return None


def differing_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The protocol fields in which two records differ, so that their numbers are incomparable."""
    return sorted(
        key for key in (ours.keys() | theirs.keys()) - _HOW if ours.get(key) != theirs.get(key)
    )


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


def _judge(
    limit: Limit, name: str, record: Record, reference: Record | None, why_not: str
) -> Verdict:
    metric = f"{limit.family}.{name}"
    bounds = [
        f"{side} {b:.15g}" for side, b in (("min", limit.min), ("max", limit.max)) if b is not None
    ]
    bound = ", ".join(bounds)
    found = record.find(name)
    if found is None or found.value is None:
        spec = load_measurement(record.measurement).VALUES.get(base_name(name))
        needs_reference = spec is not None and spec.paired
        reason = why_not if needs_reference and why_not else f"{name} is unavailable"
        text = f"{record.cell.id} {metric} cannot be judged against {bound}: {reason}"
        return Verdict(verdict="INCONCLUSIVE", metric=metric, bound=bound, value=None, text=text)
    too_high = limit.max is not None and found.value > limit.max
    too_low = limit.min is not None and found.value < limit.min
    outcome = "FAIL" if too_high or too_low else "PASS"
    unit = f" {found.unit}" if found.unit else ""
    shown = _show_beside(found.value, limit.max if too_high else limit.min if too_low else None)
    text = f"{record.cell.id}: {metric} is {shown}{unit}{_show_spread(found)}, the limit is {bound}"
    if name in record.paired and reference is not None:
        text += _describe_pair(name, record, reference)
    return Verdict(
        verdict="FAIL" if outcome == "FAIL" else "PASS",
        metric=metric,
        bound=bound,
        value=found.value,
        text=f"{text} ({limit.position}).",
    )


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
    of = load_measurement(record.measurement).VALUES[base_name(name)].of
    compared = f"{of}{name.removeprefix(base_name(name))}"
    ours, theirs = record.values.get(compared), reference.values.get(compared)
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return ""
    shown = f"{compared} {ours.value:.6g}"
    return f"; {shown}, reference {reference.cell.precision} {theirs.value:.6g}"
