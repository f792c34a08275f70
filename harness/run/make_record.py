"""How asking a cell for one measurement ended -> its record. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.records.record import CellFacts, Measured, Record, Status, Validity, join_validity
from harness.run.interference import judge_telemetry
from harness.suite.cells import Cell
from harness.suite.model_sources import ModelFiles
from harness.worker.messages import Failure, Loaded


@dataclass(frozen=True)
class Attempt:
    """The answer, what was loaded for it, and what telemetry saw meanwhile."""

    answer: Measured | Failure
    loaded: Loaded | None = None
    telemetry: dict[str, Any] | None = None
    interrupted: bool = False


def make_record(
    cell: Cell,
    device: str,
    files: ModelFiles | Failure,
    measurement: str,
    found: Attempt,
    seconds: float,
) -> Record:
    """The record; ``seconds`` in all, with the loading where this was a cell's first measurement.

    A failure with finished numbers keeps them: invalid where they are not sound, else failed.
    """
    loaded, answer = found.loaded, found.answer
    record = Record(
        cell=_describe_cell(cell, device, files, loaded),
        measurement=measurement,
        seconds={**(loaded.seconds if loaded else {}), "total": seconds},
        telemetry=() if found.telemetry is None else (found.telemetry,),
    )
    measured = answer.measured or answer if isinstance(answer, Failure) else answer
    if isinstance(measured, Failure):
        validity = Validity(status=measured.status, reasons=(measured.reason,))
        return record.model_copy(update={"validity": validity, "traceback": measured.traceback})
    flags = loaded.flags if loaded else ()
    validity = join_validity(
        measured.validity,
        Validity(status="flagged" if flags else "ok", reasons=flags),
        judge_telemetry(found.telemetry or {}),
    )
    fields = {name: getattr(measured, name) for name in Measured.model_fields}
    if isinstance(answer, Failure):
        status: Status = "invalid" if validity.status == "invalid" else "failed"
        validity = Validity(status=status, reasons=(answer.reason, *validity.reasons))
        fields["traceback"] = answer.traceback
    return record.model_copy(update={**fields, "validity": validity})


def _describe_cell(
    cell: Cell, device: str, files: ModelFiles | Failure, loaded: Loaded | None
) -> CellFacts:
    model, precision = cell.model, cell.precision
    known = None if isinstance(files, Failure) else files
    return CellFacts(
        id=cell.id,
        model=model.name,
        precision=precision.name,
        device=device,
        source=model.source if isinstance(model.source, str) else model.source.model_dump(),
        revision=known.revision if known else model.revision,
        weights_sha256=known.weights_sha256 if known else None,
        tokenizer_sha256=known.tokenizer_sha256 if known else None,
        declared=precision.declared,
        attested=loaded.attested if loaded else None,
    )
