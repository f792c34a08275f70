"""Turn one cell and one measurement into a record, whatever happens on the way.

It plans, keeps and judges no records: a run does.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from harness.catalog import load_measurement, load_precision
from harness.errors import InputError, UnavailableError
from harness.machine.telemetry import Telemetry
from harness.records.record import Measured, Record
from harness.run.look_ahead import LookAhead
from harness.run.machine import Machine
from harness.run.make_record import Attempt, make_record
from harness.run.process import CellInThisProcess, CellProcess, LoadedCell
from harness.run.repeats import is_hopeless, merge_repeats
from harness.suite.cells import Cell
from harness.suite.model_sources import CellJob, ModelFiles, find_files
from harness.suite.models import MeasurementSpec
from harness.worker.messages import Failure, MeasureRequest, Progress

# Called with the cell's id, the measurement's name and how far it is.
OnCellProgress: TypeAlias = Callable[[str, str, Progress], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a measurement; ``record`` holds what was measured until then."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record


class LocalExecutor:
    """Measures cells one after another; the last one's process stays for its next measurement."""

    def __init__(
        self,
        suite_folder: Path,
        machine: Machine,
        on_progress: OnCellProgress,
        reference: str | None = None,
        isolate: bool = True,
        timeout_s: float | None = None,
        cells: Iterable[Cell] = (),
    ) -> None:
        """``reference`` is the name of the precision that others are compared with.

        ``cells`` are those that will be asked for, in this order as far as that is known.
        """
        self._suite_folder = suite_folder
        self._machine = machine
        self._on_progress = on_progress
        self._reference = reference
        self._isolate = isolate
        self._timeout_s = timeout_s
        self._process: LoadedCell | None = None
        self._process_cell = ""
        self._files: dict[str, ModelFiles | Failure] = {}
        self._unloadable: dict[str, Failure] = {}  # by cell; a cell that loaded once is not here
        self._loadable: set[str] = set()
        self._look_ahead = LookAhead(cells, suite_folder)

    @property
    def pid(self) -> int | None:
        """The process id of the current cell."""
        return None if self._process is None else self._process.pid

    def measure(
        self,
        cell: Cell,
        measurement: MeasurementSpec,
        reference: Record | None = None,
        processes: list[Record] | None = None,
    ) -> Record:
        """One record: numbers, or the reason why there are none.

        ``reference`` is the reference's record of the same measurement, for metrics that compare
        while they measure. ``processes`` are records of single processes that count, too: only what
        is missing is measured, and added to them. Ctrl-C raises `Interrupted` where anything was
        measured before it.
        """
        count = measurement.options.repeats
        records = [] if processes is None else processes
        if count == 1 or not self._isolate:
            records.append(self._measure_once(cell, measurement, reference))
            return records[-1]
        try:
            while len(records) < count:
                self.close()  # every sample is a process of its own
                record = self._measure_once(cell, measurement, reference)
                if is_hopeless(record) and not any(earlier.values for earlier in records):
                    return record
                records.append(record)
        except KeyboardInterrupt as stop:
            reason = f"interrupted after {len(records)} of {count} processes"
            if isinstance(stop, Interrupted):
                records.append(stop.record)
            if not any(record.values for record in records):
                raise
            raise Interrupted(merge_repeats(records, reason)) from None
        self.close()
        return merge_repeats(records)

    def find_files(self, cell: Cell) -> ModelFiles | Failure:
        """The files of the cell's model, found once per run, or why the cell cannot run here."""
        refusal = explain_refusal(cell, self._machine)
        if refusal is not None:
            return refusal
        model = cell.model
        if model.name not in self._files:
            found: ModelFiles | Failure
            try:
                found = find_files(model, self._suite_folder, self._machine.online)
            except UnavailableError as error:
                found = Failure("skipped", str(error))
            except (InputError, OSError) as error:
                found = Failure("failed", str(error))
            self._files[model.name] = found
        return self._files[model.name]

    def close(self) -> None:
        """End the current cell's process; the next measurement starts a fresh one."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def _measure_once(
        self, cell: Cell, measurement: MeasurementSpec, reference: Record | None
    ) -> Record:
        start = time.monotonic()
        files = self.find_files(cell)
        # With a record to compare with it is the reference's second time, against itself.
        is_reference = cell.precision.name == self._reference and reference is None
        compares = load_measurement(measurement.name).needs_reference
        lack = _explain_lack(reference) if compares and not is_reference else None
        if isinstance(files, Failure):
            found = Attempt(files)
        elif cell.id in self._unloadable:
            found = Attempt(self._unloadable[cell.id])
        elif lack is not None:
            found = Attempt(lack)
        elif not self._isolate and measurement.options.repeats > 1:
            reason = f"`{measurement.options.REPEATS}` does not work with --no-isolate"
            found = Attempt(Failure("failed", f"{reason}: leave one of them out"))
        else:
            name, options = measurement.name, measurement.options
            request = MeasureRequest(name, options, reference if compares else None, is_reference)
            found = self._load_and_measure(cell, files, request)
        seconds = time.monotonic() - start
        device = self._machine.device.device
        record = make_record(cell, device, files, measurement.name, found, seconds)
        if found.interrupted:
            raise Interrupted(record)
        return record

    def _load_and_measure(self, cell: Cell, files: ModelFiles, request: MeasureRequest) -> Attempt:
        metric = load_measurement(request.measurement)
        process = self._process_for(cell, metric.fresh_process, files)
        if metric.timed:
            self._look_ahead.pause()  # loading is timed, too

        def follow(progress: Progress) -> None:
            self._on_progress(cell.id, request.measurement, progress)

        failure = process.load(follow)
        if failure is not None:
            if cell.id not in self._loadable:
                self._unloadable[cell.id] = failure  # not tried again
            self._end_after_bug(failure)
            return Attempt(failure)
        self._loadable.add(cell.id)
        device, watch = self._machine.device, None
        if not metric.timed:
            self._look_ahead.start(cell, device.type)
        else:
            watch = Telemetry(process.pid, device.uuid, device.torch.get("threads")).start()
        interrupted = False
        answer: Measured | Failure
        try:
            answer = process.measure(request, follow)
        except KeyboardInterrupt:
            if process.partial is None:
                raise
            interrupted = True
            answer = Failure("failed", "interrupted").after(process.partial)
        finally:
            telemetry = watch.stop() if watch is not None else None
        self._end_after_bug(answer)
        return Attempt(answer, process.loaded, telemetry, interrupted)

    def _end_after_bug(self, answer: Measured | Failure) -> None:
        """CUDA is of no use to a process once a kernel has failed in it."""
        if isinstance(answer, Failure) and answer.traceback:
            self.close()

    def _process_for(self, cell: Cell, fresh: bool, files: ModelFiles) -> LoadedCell:
        """The cell's living process; a new one where it died or must not have measured before."""
        current = self._process
        is_same = current is not None and self._process_cell == cell.id and current.alive
        if current is not None and is_same and not (fresh and current.measured):
            return current
        self.close()
        job = CellJob(
            model=cell.model,
            precision=cell.precision,
            files=files,
            device=self._machine.device.device,
            suite_folder=self._suite_folder,
            online=self._machine.online,
            capability=self._machine.device.capability,
        )
        self._process_cell = cell.id
        self._process = (
            CellProcess(job, self._timeout_s) if self._isolate else CellInThisProcess(job)
        )
        return self._process


def explain_refusal(cell: Cell, machine: Machine) -> Failure | None:
    """Why this machine cannot run the cell, as far as that is known without loading anything."""
    device, model, needs = machine.device, cell.model.name, cell.model.requires
    precision = load_precision(cell.precision.use)
    kinds, oldest = precision.devices, precision.min_capability
    here = f"this run is on {device.device}"
    if needs.device is not None and needs.device != device.type:
        reason = f"{model} requires {needs.device}, {machine.notice or here}"
    elif needs.memory is not None and needs.memory > device.memory_bytes:
        reason = (
            f"{model} requires {needs.memory / 2**30:.3g} GiB of memory, "
            f"{device.device} has {device.memory_bytes / 2**30:.3g} GiB"
        )
    elif device.type == "cuda" and device.capability < oldest:
        reason = f"{cell.precision.name} needs CUDA capability {oldest}, {device.gpu_name} has less"
    elif device.type not in kinds:
        where = " or ".join(kinds)
        reason = f"{cell.precision.name} runs on {where} only, not on {device.device}"
    else:
        return None
    return Failure("skipped", reason)


def _explain_lack(reference: Record | None) -> Failure | None:
    """Why a metric that compares while it measures has nothing to compare with; None if it has."""
    if reference is None:
        return Failure("failed", "the reference was not measured")
    if reference.usable:
        return None
    why = "; ".join(reference.validity.reasons)
    reason = f"the reference {reference.cell.precision} has no numbers: {why}"
    return Failure("skipped" if reference.validity.status == "skipped" else "failed", reason)
