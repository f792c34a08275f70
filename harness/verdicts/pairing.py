"""Records compared with the reference's: paired values, the noise floor, limits judged. Pure."""

from collections.abc import Iterable

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.records.identity import list_differing, list_protocol
from harness.records.record import Record, Value
from harness.records.values import find_spec
from harness.suite.models import Suite
from harness.verdicts.doubts import doubt_ratios, leave_open
from harness.verdicts.limits import judge_limits


def complete_records(suite: Suite, records: Iterable[Record]) -> tuple[Record, ...]:
    """Every record with its paired values, and its limits judged."""
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
    """One record with ``paired`` and ``verdicts`` filled in; ``reference`` may be the same record.

    ``noise`` is the reference measured a second time: its distance from the first is the noise
    floor of each paired value.
    """
    paired: dict[str, Value] = {}
    why_not = ""
    if record.noise or record.cell.precision != suite.reference:
        refusal = explain_refusal(record, reference, suite.reference)
        if refusal is None and reference is not None:
            paired = load_measurement(record.measurement).compare(record, reference)
        why_not = refusal or ""
    record = record.model_copy(update={"paired": paired})
    if paired and reference is not None:
        record = doubt_ratios(record, reference)
    if record.noise:
        return record
    if noise is not None and noise.usable and record.cell.precision != suite.reference:
        record = _add_floors(record, complete_record(suite, noise, reference))
    verdicts = judge_limits(suite.limits, record, reference, why_not)
    verdicts = tuple(leave_open(verdict, record, reference) for verdict in verdicts)
    return record.model_copy(update={"verdicts": verdicts})


def is_noise(value: Value, spec: ValueSpec) -> bool:
    """Whether there is a difference, but no larger than that of the reference from itself."""
    if value.floor is None or value.value is None or spec.neutral is None:
        return False
    return 0 < abs(value.value - spec.neutral) <= value.floor


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
    differing = list_differing(list_protocol(record), list_protocol(reference))
    if differing:
        return f"incomparable with the reference {name}: {', '.join(differing)} differ"
    return None


def _add_floors(record: Record, noise: Record) -> Record:
    """``record`` with the reference's distance from itself as the floor of each paired value."""

    def with_floor(name: str, value: Value) -> Value:
        spec, again = find_spec(record.measurement, name), noise.find(name)
        if not (spec and spec.paired and again) or spec.neutral is None or again.value is None:
            return value
        return value.model_copy(update={"floor": abs(again.value - spec.neutral)})

    values, paired = (
        {name: with_floor(name, value) for name, value in group.items()}
        for group in (record.values, record.paired)
    )
    return record.model_copy(update={"values": values, "paired": paired})
