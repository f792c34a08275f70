"""How asking a cell for one measurement ended -> its record. Pure."""

from dataclasses import dataclass
from typing import Any

from harness.machine.telemetry import POWER_CAP
from harness.records.record import CellFacts, Measured, Record, Status, Validity, join_validity
from harness.suite.cells import Cell
from harness.suite.model_sources import ModelFiles
from harness.worker.messages import Failure, Loaded

_MAY_CONTEND = 0.1  # of the cores that a cell computes on


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


def judge_telemetry(summary: dict[str, Any]) -> Validity:
    """Whether numbers that were measured meanwhile may be trusted.

    Invalid: the GPU was slowed down by heat or hardware, or another process used it. Flagged: its
    power was capped, or other processes needed the cores that the cell computed on.
    """
    gpu, cpu = summary.get("gpu", {}), summary.get("cpu", {})
    throttled = {reason: share for reason, share in (gpu.get("throttled") or {}).items() if share}
    capped = throttled.pop(POWER_CAP, None)
    broken = [
        f"the GPU was throttled: {reason} in {share:.0%} of the samples"
        for reason, share in throttled.items()
    ]
    others = gpu.get("other_processes")
    if others:
        broken.append(f"{others} other process{'es' * (others > 1)} used the GPU")
    if broken:
        return Validity(status="invalid", reasons=tuple(broken))
    odd = []
    if capped:
        limit = gpu.get("power_limit_w")
        at = f" at {limit:g} W" if limit else ""
        odd.append(f"the GPU's power was capped{at} in {capped:.0%} of the samples")
    used, cores, threads = cpu.get("other_cores"), cpu.get("cores"), cpu.get("threads")
    # On a GPU one thread launches kernels.
    threads = 1 if "gpu" in summary else threads
    if None not in (used, cores, threads) and used - (cores - threads) > _MAY_CONTEND * threads:
        odd.append(f"other processes used {used:.1f} of {cores} cores")
    return Validity(status="flagged" if odd else "ok", reasons=tuple(odd))


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
