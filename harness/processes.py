"""Several processes that measured the same, made into one record. Pure; no torch.

Rounds inside one process share its luck; what varies between processes is what an interval must
hold (METHOD: the process is the sample).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.catalog import load_measurement
from harness.record import Measured, Record, Validity, join_validity

_FEWEST = 2  # with one there is no spread


def is_hopeless(record: Record) -> bool:
    """Whether another process could do no better: the cell was skipped or does not load."""
    return not record.usable and record.cell.attested is None


def join_processes(records: Sequence[Record]) -> Record:
    """One record of all that have numbers, by their metric's ``merge_processes``.

    A process without numbers is told as a flag; the record fails where fewer than two are left,
    and then holds what the one measured. ``seconds`` are the first process's, but for the total.
    """
    good = [record for record in records if record.usable]
    bad = [record for record in records if not record.usable]
    first = good[0] if good else records[0]
    seconds = {**first.seconds, "total": sum(r.seconds.get("total", 0.0) for r in records)}
    update: dict[str, Any] = {
        "seconds": seconds,
        "telemetry": tuple(summary for record in records for summary in record.telemetry),
        "traceback": "\n".join(record.traceback for record in bad if record.traceback),
    }
    whys = [reason for record in bad for reason in record.validity.reasons]
    told = f"{len(bad)} of {len(records)} processes gave no numbers"
    if len(good) < _FEWEST:
        reason = f"{told}, and an interval needs {_FEWEST} that do"
        only_invalid = all(record.validity.status == "invalid" for record in bad)
        update["validity"] = Validity(
            status="invalid" if only_invalid else "failed",
            reasons=tuple(dict.fromkeys((reason, *whys))),
        )
        return first.model_copy(update=update)
    merged: Measured = load_measurement(first.measurement).merge_processes(
        [Measured(**{name: getattr(r, name) for name in Measured.model_fields}) for r in good]
    )
    lost = Validity(status="flagged", reasons=(told, *whys)) if bad else Validity()
    fields = {name: getattr(merged, name) for name in Measured.model_fields}
    # Not the merged one: a record's has what telemetry and the loaded cell say as well.
    fields["validity"] = join_validity(*(record.validity for record in good), lost)
    return first.model_copy(update={**update, **fields})
