"""Turn one cell and one measurement into a record, whatever happens on the way.

Owns the process of the cell at hand. Does not know what is asked for next, what is kept where, or
what the numbers are compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.catalog import load_measurement, load_precision
from harness.machine.telemetry import Telemetry
from harness.records.record import CellFacts, Measured, Record, Status, Validity, join_validity
from harness.run.interference import judge_telemetry
from harness.run.machine import Machine
from harness.run.process import CellInProcess, CellProcess
from harness.run.repeats import is_hopeless, join_processes
from harness.suite.cell_job import CellJob
from harness.suite.cells import cell_id
from harness.suite.model_files import SourceError, SourceUnavailable
from harness.suite.model_sources import ModelFiles, find_files
from harness.suite.models import MeasurementSpec, ModelSpec, PrecisionSpec
from harness.worker.messages import Failure, MeasureRequest, Progress
from harness.worker.probe import DeviceFacts

# Called with the cell's id, the measurement's name and how far it is.
OnProgress = Callable[[str, str, Progress], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a measurement; ``record`` is of what was measured until then."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record


class CellRunner:
    """Measures cells one after another; the last one's process stays for its next measurement."""

    def __init__(
        self,
        suite_folder: Path,
        machine: Machine,
        on_progress: OnProgress,
        isolate: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        self._suite_folder = suite_folder
        self._machine = machine
        self._on_progress = on_progress
        self._isolate = isolate
        self._timeout_s = timeout_s
        self._process: CellProcess | CellInProcess | None = None
        self._process_cell = ""
        self._files: dict[str, ModelFiles | Failure] = {}
        self._unloadable: dict[str, Failure] = {}
        self._loadable: set[str] = set()
        self._interrupted = False

    def measure(
        self,
        model: ModelSpec,
        precision: PrecisionSpec,
        measurement: MeasurementSpec,
        reference: Record | None = None,
        is_reference: bool = False,
    ) -> Record:
        """One record: numbers, or the reason why there are none.

        ``reference`` is the reference's record of the same measurement, for those that are
        compared while they are made; ``is_reference`` tells that this will be that record. Ctrl-C
        raises `Interrupted` where anything was measured before it.
        """
        count = getattr(measurement.options, "processes", 1)
        if count == 1 or not self._isolate:
            return self._measure_once(model, precision, measurement, reference, is_reference)
        records: list[Record] = []
        try:
            while len(records) < count:
                self.close()  # every sample is a process of its own
                record = self._measure_once(model, precision, measurement, reference, is_reference)
                if is_hopeless(record) and not any(earlier.values for earlier in records):
                    return record
                records.append(record)
        except KeyboardInterrupt as stop:
            told = f"interrupted after {len(records)} of {count} processes"
            if isinstance(stop, Interrupted):
                records.append(stop.record)
            if not any(record.values for record in records):
                raise
            raise Interrupted(join_processes(records, told)) from None
        self.close()
        return join_processes(records)

    def _measure_once(
        self,
        model: ModelSpec,
        precision: PrecisionSpec,
        measurement: MeasurementSpec,
        reference: Record | None,
        is_reference: bool,
    ) -> Record:
        start = time.monotonic()
        cell = cell_id(model, precision)
        module = load_measurement(measurement.name)
        compares = module.needs_reference
        files = self.find_files(model, precision)
        answer: Measured | Failure
        loaded, telemetry = None, None
        if isinstance(files, Failure):
            answer = files
        elif cell in self._unloadable:
            answer = self._unloadable[cell]
        elif compares and not is_reference and (reference is None or not reference.usable):
            answer = _explain_lack(reference)
        elif not self._isolate and getattr(measurement.options, "processes", 1) > 1:
            answer = Failure(
                "failed", "`processes` cannot be had with --no-isolate: leave one of them out"
            )
        else:
            process = self._process_for(cell, model, precision, measurement, files)

            def tell(progress: Progress) -> None:
                self._on_progress(cell, measurement.name, progress)

            failure = process.load(tell)
            loaded = process.loaded
            if failure is not None:
                answer = failure
                if cell not in self._loadable:
                    self._unloadable[cell] = failure  # what does not load is not loaded again
            else:
                self._loadable.add(cell)
                request = MeasureRequest(
                    measurement.name,
                    measurement.options,
                    reference if compares else None,
                    is_reference,
                )
                watched = module.timed
                answer, telemetry = self._ask(process, request, watched, tell)
            if isinstance(answer, Failure) and answer.traceback:
                self.close()  # CUDA is of no use to a process once a kernel has failed in it
        known = None if isinstance(files, Failure) else files
        facts = CellFacts(
            id=cell,
            model=model.name,
            precision=precision.name,
            device=self._machine.device.device,
            source=model.source if isinstance(model.source, str) else model.source.model_dump(),
            revision=known.revision if known else model.revision,
            weights_sha256=known.weights_sha256 if known else None,
            tokenizer_sha256=known.tokenizer_sha256 if known else None,
            declared={"use": precision.use, **precision.options.model_dump(mode="json")},
            attested=loaded.attested if loaded else None,
        )
        # "total" holds the start of the process and the loading where this was a cell's first.
        seconds = {**(loaded.seconds if loaded else {}), "total": time.monotonic() - start}
        flags = loaded.flags if loaded else ()
        record = _make_record(facts, measurement.name, answer, seconds, flags, telemetry)
        if self._interrupted:
            raise Interrupted(record)
        return record

    def _ask(
        self,
        process: CellProcess | CellInProcess,
        request: MeasureRequest,
        watched: bool,
        tell: Callable[[Progress], None],
    ) -> tuple[Measured | Failure, dict[str, Any] | None]:
        """The answer, and what telemetry saw meanwhile; what Ctrl-C leaves is a failure."""
        watch = self._start_telemetry(process.pid) if watched else None
        try:
            answer = process.measure(request, tell)
        except KeyboardInterrupt:
            if process.partial is None:
                raise
            self._interrupted = True
            answer = Failure("failed", "interrupted").after(process.partial)
        finally:
            telemetry = watch.stop() if watch is not None else None
        return answer, telemetry

    def _start_telemetry(self, worker: int | None) -> Telemetry:
        device = self._machine.device
        return Telemetry(worker, device.uuid, device.torch.get("threads")).start()

    def find_files(self, model: ModelSpec, precision: PrecisionSpec) -> ModelFiles | Failure:
        """The model's files, looked for once per run; not at all for a cell that is refused."""
        refusal = explain_refusal(model, precision, self._machine.device)
        if refusal is not None:
            return refusal
        if model.name not in self._files:
            found: ModelFiles | Failure
            try:
                found = find_files(model, self._suite_folder, self._machine.online)
            except SourceUnavailable as error:
                found = Failure("skipped", str(error))
            except (SourceError, OSError) as error:
                found = Failure("failed", str(error))
            self._files[model.name] = found
        return self._files[model.name]

    def close(self) -> None:
        """End the last cell's process."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def _process_for(
        self,
        cell: str,
        model: ModelSpec,
        precision: PrecisionSpec,
        measurement: MeasurementSpec,
        files: ModelFiles,
    ) -> CellProcess | CellInProcess:
        """The cell's living process; a new one where it died or must not have measured before."""
        current = self._process
        fresh = load_measurement(measurement.name).fresh_process
        if current is not None and self._process_cell == cell and current.alive:
            spent = fresh and current.measured > 0
            if not spent:
                return current
        self.close()
        job = CellJob(
            model=model,
            precision=precision,
            files=files,
            device=self._machine.device.device,
            suite_folder=self._suite_folder,
            online=self._machine.online,
        )
        kind = CellProcess if self._isolate else CellInProcess
        self._process, self._process_cell = kind(job, self._timeout_s), cell
        return self._process


def explain_refusal(
    model: ModelSpec, precision: PrecisionSpec, device: DeviceFacts
) -> Failure | None:
    """Why this machine cannot run the cell, as far as that is known without loading anything."""
    needs = model.requires
    module = load_precision(precision.use)
    kinds, oldest = module.devices, module.min_capability
    if needs.device is not None and needs.device != device.type:
        reason = f"{model.name} requires {needs.device}, this run is on {device.device}"
    elif needs.memory is not None and needs.memory > device.memory_bytes:
        reason = (
            f"{model.name} requires {needs.memory / 2**30:.3g} GiB of memory, "
            f"{device.device} has {device.memory_bytes / 2**30:.3g} GiB"
        )
    elif device.type == "cuda" and device.capability < oldest:
        reason = f"{precision.name} needs CUDA capability {oldest}, {device.gpu_name} has less"
    elif device.type not in kinds:
        reason = f"{precision.name} runs on {' or '.join(kinds)} only, not on {device.device}"
    else:
        return None
    return Failure("skipped", reason)


def _explain_lack(reference: Record | None) -> Failure:
    """Why what compares while it measures has nothing to compare with."""
    if reference is None:
        return Failure("failed", "the reference was not measured")
    why = "; ".join(reference.validity.reasons)
    reason = f"the reference {reference.cell.precision} has no numbers: {why}"
    return Failure("skipped" if reference.validity.status == "skipped" else "failed", reason)


def _make_record(
    cell: CellFacts,
    measurement: str,
    answer: Measured | Failure,
    seconds: dict[str, float],
    flags: tuple[str, ...],
    telemetry: dict[str, Any] | None,
) -> Record:
    record = Record(
        cell=cell,
        measurement=measurement,
        seconds=seconds,
        telemetry=() if telemetry is None else (telemetry,),
    )
    measured = answer.measured or answer if isinstance(answer, Failure) else answer
    if isinstance(measured, Failure):
        validity = Validity(status=measured.status, reasons=(measured.reason,))
        return record.model_copy(update={"validity": validity, "traceback": measured.traceback})
    fields = {name: getattr(measured, name) for name in Measured.model_fields}
    fields["validity"] = found = join_validity(
        measured.validity,
        Validity(status="flagged" if flags else "ok", reasons=flags),
        judge_telemetry(telemetry or {}),
    )
    if isinstance(answer, Failure):  # some numbers are lacking; are those that are there sound?
        status: Status = "invalid" if found.status == "invalid" else "failed"
        fields["validity"] = Validity(status=status, reasons=(answer.reason, *found.reasons))
        fields["traceback"] = answer.traceback
    return record.model_copy(update=fields)
