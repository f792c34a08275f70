"""Several processes that measured the same, made into one record. Pure; no torch.

Rounds inside one process share its luck; what varies between processes is what an interval must
hold: the process is the sample.
"""

from collections.abc import Sequence
from typing import Any

from harness.catalog import load_measurement
from harness.records.record import LEFT_OUT, Measured, Record, Validity, join_validity

_FEWEST = 2  # with one there is no spread


def is_hopeless(record: Record) -> bool:
    """Whether another process could do no better: the cell was skipped or does not load."""
    return not record.usable and record.cell.attested is None


def merge_repeats(
    records: Sequence[Record], interrupted: str = "", spare: Sequence[Record] = ()
) -> Record:
    """One record of all that have sound numbers, by their metric's ``merge_repeats``.

    A process that failed halfway counts with what it had finished. Missing processes become a flag,
    and so does ``interrupted``; the record fails where fewer than two processes finished, and still
    holds what was measured. Rounds of an invalid process are kept apart, with the reasons, in
    ``samples["left_out"]``, and so are those of ``spare``: processes that nobody asked for, and
    that were no good. ``seconds`` are the first process's, except the total.
    """
    sound = [record for record in records if record.usable or _has_finished_a_part(record)]
    first = next((record for record in (*sound, *records) if record.values), records[0])
    fields = _merge(sound) if len(sound) > 1 else {"samples": first.samples}
    left_out = [
        {"reasons": record.validity.reasons, "samples": record.samples}
        for record in records
        if record.validity.status == "invalid" and record.samples and record is not first
    ]
    left_out += [{"reasons": one.validity.reasons, "samples": one.samples} for one in spare]
    if left_out:
        fields["samples"] = {**fields["samples"], LEFT_OUT: left_out}
    total = sum(record.seconds.get("total", 0.0) for record in (*records, *spare))
    update = {
        **fields,
        "validity": _judge(records, interrupted),
        "seconds": {**first.seconds, "total": total},
        "telemetry": tuple(summary for record in records for summary in record.telemetry),
        "traceback": "\n".join(record.traceback for record in records if record.traceback),
    }
    return first.model_copy(update=update)


def _has_finished_a_part(record: Record) -> bool:
    """Whether it failed with numbers, which are sound: else it would be invalid."""
    return record.validity.status == "failed" and bool(record.values)


def _merge(records: Sequence[Record]) -> dict[str, Any]:
    """The fields of the merged record except its validity, which `_judge` finds."""
    names = Measured.model_fields
    merge = load_measurement(records[0].measurement).merge_repeats
    assert merge is not None, "a metric whose options name REPEATS merges them"
    merged = merge([Measured(**{name: getattr(r, name) for name in names}) for r in records])
    return {name: getattr(merged, name) for name in names if name != "validity"}


def _judge(records: Sequence[Record], interrupted: str) -> Validity:
    """The validity of all processes together, with a flag for missing ones."""
    good = [record for record in records if record.usable]
    bad = [record for record in records if not record.usable]
    parts = [record for record in bad if _has_finished_a_part(record)]
    lost = [interrupted] if interrupted else []
    if bad:
        gave = "not all numbers" if parts else "no numbers"
        lost.append(f"{len(bad)} of {len(records)} processes gave {gave}")
    if len(good) < _FEWEST and lost:
        lost[-1] += f", and an interval needs {_FEWEST} that do"
    whys = [reason for record in bad for reason in record.validity.reasons]
    flags = Validity(status="flagged" if lost else "ok", reasons=(*lost, *whys))
    found = join_validity(*(record.validity for record in good), flags)
    if len(good) >= _FEWEST or not lost:
        return found
    invalid = [record for record in bad if record.validity.status == "invalid"]
    # A failed record's numbers are sound; where there are none but an invalid process's, it is too.
    is_invalid = bool(invalid) and (len(invalid) == len(bad) or not (good or parts))
    return found.model_copy(update={"status": "invalid" if is_invalid else "failed"})
