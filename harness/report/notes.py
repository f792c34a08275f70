"""What a reader of a run must know besides its numbers: noise, flags, skips, a metric's remarks."""

from __future__ import annotations

from collections.abc import Sequence

from harness.catalog import load_measurement
from harness.records.record import Record
from harness.records.values import base_name
from harness.verdicts.pairing import is_noise

_PLACES = 3


def list_notes(records: Sequence[Record]) -> list[str]:
    """Each note once, with the first places that it concerns."""
    notes: dict[str, list[str]] = {}
    if any(_shows_noise(record) for record in records):
        notes["~ noise: no farther from the reference than the reference from itself"] = []
    for record in records:
        where = f"{record.cell.id} {record.measurement}"
        if record.validity.status in ("flagged", "skipped"):
            for reason in record.validity.reasons:
                mark = "* " if record.validity.status == "flagged" else ""
                notes.setdefault(f"{mark}{record.validity.status}: {reason}", []).append(where)
        if record.validity.status == "failed" and record.values:
            notes.setdefault("! finished before the measurement failed", []).append(where)
        if record.usable:
            for remark in load_measurement(record.measurement).remarks(record):
                notes.setdefault(remark, []).append(where)
    lines = []
    for note, places in notes.items():
        more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
        lines.append(f"{note} ({', '.join(places[:_PLACES])}{more})" if places else note)
    return lines


def _shows_noise(record: Record) -> bool:
    """Whether a value that the matrix shows is no larger than the noise."""
    described = load_measurement(record.measurement)
    shown = {column.value for column in described.headline}
    return any(
        base_name(name) in shown and is_noise(value, described.values[base_name(name)])
        for name, value in {**record.values, **record.paired}.items()
    )
