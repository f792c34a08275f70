"""Run one suite: measure its cells, or take reference records from the cache, and keep records.

Every record goes to the journal as soon as it exists and into one run file at the end.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.catalog import load_measurement
from harness.machine.privacy import scrub
from harness.records.journal import Journal, recover_journals
from harness.records.questions import fetch_questions
from harness.records.record import Record
from harness.records.run_file import Run, write_run
from harness.run.announcements import Announcements
from harness.run.confirmations import Confirmations
from harness.run.executor import Interrupted, LocalExecutor, OnCellProgress
from harness.run.header import list_remarks, start_header
from harness.run.machine import Machine
from harness.run.references import cell_key, find_reference, keep_reference
from harness.run.same_night import Task
from harness.run.settings import RunSettings
from harness.run.until_decided import ExtraRounds
from harness.run.varied import vary_batch
from harness.suite.cells import Cell, cell_id, has_paired_values, sort_fresh_first
from harness.suite.models import MeasurementSpec, Suite
from harness.verdicts.advice import advise
from harness.verdicts.baseline import find_baseline
from harness.verdicts.looks import keep_verdicts
from harness.verdicts.pairing import complete_record, complete_records
from harness.verdicts.same_night import is_suspicious
from harness.verdicts.thresholds import Thresholds, list_unmeasured
from harness.worker.messages import Progress

Key = tuple[str, str]  # a cell's id and a measurement's name


class SuiteRun:
    """One suite's run: measures on request, journals every record, writes the run file.

    ``run`` is what the run file holds, once it is written.
    """

    def __init__(
        self,
        suite: Suite,
        planned: Iterable[tuple[Cell, MeasurementSpec]],
        machine: Machine,
        settings: RunSettings,
        on_progress: OnCellProgress,
        on_notice: Callable[[str], None],
        executor: LocalExecutor | None = None,
    ) -> None:
        """Raises `InputError` for an unreadable baseline, OSError where nothing can be kept."""
        self.suite = suite
        self.planned = {(cell.id, spec.name): (cell, spec) for cell, spec in planned}
        self._machine = machine
        self._settings = settings
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._announcements = Announcements(suite.limits, self.planned, on_notice)
        self.run: Run | None = None
        self._interrupted = False
        self._records: dict[Key, Record] = {}
        self._noise: dict[Key, Record] = {}
        self._reference = next((p for p in suite.precisions if p.name == suite.reference), None)
        self._executor = executor or LocalExecutor(
            suite.folder,
            machine,
            self._follow,
            suite.reference,
            settings.isolate,
            settings.cell_timeout_s,
            [cell for cell, _ in self.planned.values()],
        )
        self._extra = None
        if settings.until_decided:
            self._extra = ExtraRounds(
                planned=self.planned,
                reference=self._reference,
                records=self._records,
                judge=self._find_judged,
                measure=self._measure_more,
                keep=self._keep_again,
                at_most_s=settings.at_most_s,
                on_notice=on_notice,
            )
        self._start = time.monotonic()
        folder = settings.results / suite.name
        allow = (*suite.allow, *settings.allow)
        self.baseline = find_baseline(
            settings.against, suite.name, machine.slug, settings.root, allow, settings.confirm
        )
        self.recovered = recover_journals(folder)
        self._header = start_header(suite, machine, folder, settings, self.baseline)
        stem = self._header.run.id.rpartition("/")[2]
        self.path = folder / f"{stem}.json"
        self._journal = Journal(folder / f"{stem}.journal.jsonl", self._header)
        output = settings.results.parent / "ab" / suite.name / stem
        self._confirmations = Confirmations(settings, output, on_notice)
        stored = self.baseline and self.baseline.stored
        self._thresholds = stored if isinstance(stored, Thresholds) else None
        if settings.confirm and self._thresholds is None:
            on_notice("--confirm measures nothing: no thresholds judge this run (--bless them)")
        if self._extra is None:
            self._announcements.say_processes()

    def measure(self, cell: Cell, measurement: MeasurementSpec) -> Record:
        """Measure, journal, then compare with the reference and judge: the returned record."""
        self._prepare_reference(cell)
        self._find_or_measure(cell, measurement)
        if self._extra is not None and measurement.options.REPEATS is not None:
            self._measure_until_decided(self._extra)
        record = self._find_judged(cell, measurement)
        if self._settings.confirm and is_suspicious(record):
            self._confirm(cell, measurement, record)
            record = self._find_judged(cell, measurement)
        return record

    def lacks_reference(self, record: Record) -> bool:
        """Whether the record's reference failed, rather than not being there to be measured."""
        if self._reference is None or record.cell.precision == self._reference.name:
            return False
        reference = self._find_reference(self._records, record.cell.model, record.measurement)
        return reference is not None and reference.validity.status in ("failed", "invalid")

    def completed(self) -> tuple[Record, ...]:
        """The records so far with their verdicts, in the suite's order of cells."""
        cells = [cell_id(m, p) for m in self.suite.models for p in self.suite.precisions]
        order = {cell: number for number, cell in enumerate(cells)}
        made = [*self._records.values(), *self._noise.values()]
        records = sorted(made, key=lambda record: order[record.cell.id])
        return tuple(map(self._judge, complete_records(self.suite, records)))

    def list_unmeasured(self) -> list[str]:
        """The blessed measurements that this run did not make."""
        return list_unmeasured(self._thresholds, self.completed()) if self._thresholds else []

    def finish(self) -> Run | None:
        """End the last cell and write the run file, if anything was measured.

        Raises OSError where the file cannot be written; the journal then stays.
        """
        self._executor.close()
        if not self._records:
            self._journal.remove()
            return None
        # Verdicts name the suite's file and its baseline; both may be under someone's home.
        records = tuple(map(_scrub_record, self.completed()))
        made, environment = self.planned.keys() & self._records.keys(), self._machine.environment
        remarks = list_remarks(len(made), len(self.planned), self.baseline, environment, records)
        if self._extra is not None and self._extra.has_begun:
            remarks.append(self._extra.describe())
        update = {
            "duration_s": round(time.monotonic() - self._start, 3),
            "interrupted": self._interrupted or not self.planned.keys() <= self._records.keys(),
            "remarks": tuple(scrub(remarks)),
        }
        facts = self._header.run.model_copy(update=update)
        run = self._header.model_copy(update={"run": facts, "records": records})
        try:
            write_run(run, self.path)
        except OSError:
            self._journal.close()
            raise
        self._journal.remove()
        self.run = run
        return run

    def _find_judged(
        self,
        cell: Cell,
        measurement: MeasurementSpec,
        change: Callable[[Record], Record] = lambda record: record,
    ) -> Record:
        """What was measured, here and of the reference, after a change; compared and judged."""
        record = self._records[cell.id, measurement.name]
        reference = self._find_reference(self._records, cell.model.name, measurement.name)
        noise = self._find_reference(self._noise, cell.model.name, measurement.name)
        changed = None if reference is None else change(reference)
        return self._judge(complete_record(self.suite, change(record), changed, noise))

    def _measure_until_decided(self, extra: ExtraRounds) -> None:
        """Once: all that is made in several processes, and then more of them for what is open."""
        if not extra.has_begun:
            for cell, spec in self.planned.values():
                if spec.options.REPEATS is not None:
                    self._prepare_reference(cell)
                    self._find_or_measure(cell, spec)
            extra.take()

    def _measure_more(
        self, cell: Cell, measurement: MeasurementSpec, processes: list[Record]
    ) -> None:
        """One more process; after Ctrl-C `_keep_again` ends the run, once all is kept."""
        self._measure(cell, measurement, self._find_compared(cell, measurement), processes)

    def _keep_again(self, key: Key, record: Record) -> None:
        """A record that has become more, or was judged once more."""
        self._records[key] = self._write(record)
        self._go_on()

    def _judge(self, record: Record) -> Record:
        """With the baseline's verdicts, too; open ones say what would decide them.

        What was decided at an earlier look stays.
        """
        verdicts = record.verdicts
        if self.baseline is not None:
            verdicts += self.baseline.judge(self._header, record)
        settings, path = self._settings, self.suite.path
        again = settings.show_command(path, record.cell.id, record.measurement)
        file = os.path.relpath(path, settings.folder)
        reference = self.suite.reference
        advised = tuple(advise(one, record, reference, file, again) for one in verdicts)
        return keep_verdicts(record.model_copy(update={"verdicts": advised}))

    def _confirm(self, cell: Cell, measurement: MeasurementSpec, judged: Record) -> None:
        """Measure what was blessed of a suspicious record again, in turn with this code."""
        blessed = self._thresholds.find(judged) if self._thresholds is not None else None
        assert self.baseline is not None
        assert blessed is not None  # else nothing would be suspicious
        self._executor.close()  # it may hold the device's memory
        task = Task(self.suite, judged, blessed, self._machine.environment, self.baseline.allow)
        found, self._interrupted = self._confirmations.take(
            task, lambda progress: self._on_progress(cell.id, measurement.name, progress)
        )
        key = (cell.id, measurement.name)
        self._records[key] = self._keep(cell, self._records[key], same_night=found)
        self._go_on()

    def _follow(self, cell: str, measurement: str, progress: Progress) -> None:
        """Pass progress on; the number of items shows which limits cannot be decided."""
        if progress.done == 0 and progress.unit == "items":
            has_margins = self.baseline is not None
            self._announcements.say_items(cell, measurement, progress.total, has_margins)
        self._on_progress(cell, measurement, progress)

    def _find_reference(
        self, records: Mapping[Key, Record], model: str, measurement: str
    ) -> Record | None:
        if self._reference is None:
            return None
        return records.get((f"{model}[{self._reference.name}]", measurement))

    def _prepare_reference(self, cell: Cell) -> None:
        """Make the reference's records for everything planned for this model, all in one go."""
        if self._reference is None or cell.precision == self._reference:
            return
        reference = Cell(cell.model, self._reference, ())
        needed = {
            spec.name: spec
            for other, spec in self.planned.values()
            if other.model.name == cell.model.name
            and other.precision != self._reference
            and has_paired_values(spec.name)
        }
        for spec in sort_fresh_first(needed.values()):
            self._find_or_measure(reference, spec)
        missing = [s for name, s in needed.items() if (reference.id, name) not in self._noise]
        if self.suite.noise and missing:
            self._executor.close()  # another process than the one that measured the reference
            for spec in sort_fresh_first(missing):
                self._noise[reference.id, spec.name] = self._find_or_measure_noise(reference, spec)
                self._go_on()
            self._executor.close()

    def _find_or_measure(self, cell: Cell, measurement: MeasurementSpec) -> Record:
        key = (cell.id, measurement.name)
        if key in self._records:
            return self._records[key]
        is_reference = cell.precision == self._reference
        planned = key in self.planned  # what was asked for never comes from the cache
        stored = self._cache_key(cell, measurement) if is_reference else None
        record = None if planned else find_reference(stored)
        if record is None or not load_measurement(measurement.name).is_intact(record):
            processes = None
            if self._extra is not None and measurement.options.REPEATS is not None:
                processes = self._extra.processes.setdefault(key, [])
            compared = self._find_compared(cell, measurement)
            record = self._measure(cell, measurement, compared, processes)
            keep_reference(stored, record, self._header.run.id)
        self._records[key] = record = self._keep(cell, record, reference_only=not planned)
        self._go_on()
        return record

    def _find_or_measure_noise(self, cell: Cell, measurement: MeasurementSpec) -> Record:
        """The reference once more, in other batches, compared with the first time."""
        first = self._records.get((cell.id, measurement.name))
        if first is not None and not first.usable:
            return first.model_copy(update={"noise": True})
        varied = measurement.model_copy(update={"options": vary_batch(measurement.options)})
        stored = self._cache_key(cell, varied, noise=True)
        record = find_reference(stored) if first is not None and first.reused_from else None
        if record is None:
            record = self._measure(cell, varied, first)
            keep_reference(stored, record, self._header.run.id)
        return self._keep(cell, record, reference_only=True, noise=True)

    def _find_compared(self, cell: Cell, measurement: MeasurementSpec) -> Record | None:
        """The reference's record, for another cell that compares while it measures."""
        if cell.precision == self._reference:
            return None
        return self._find_reference(self._records, cell.model.name, measurement.name)

    def _measure(
        self,
        cell: Cell,
        measurement: MeasurementSpec,
        reference: Record | None,
        processes: list[Record] | None = None,
    ) -> Record:
        """A new record; what Ctrl-C has left of one is kept like any other, then `_go_on` ends."""
        try:
            return self._executor.measure(cell, measurement, reference, processes)
        except Interrupted as stop:
            self._interrupted = True
            return stop.record

    def _keep(self, cell: Cell, record: Record, **update: Any) -> Record:
        """The record as it goes into the journal, under this run's name of the cell."""
        facts = {"id": cell.id, "model": cell.model.name}
        named = record.cell.model_copy(update=facts)
        return self._write(record.model_copy(update={"cell": named, **update}))

    def _write(self, record: Record) -> Record:
        record = _scrub_record(record)
        fetch_questions(record, self.path.parent)
        self._journal.append(record)
        return record

    def _go_on(self) -> None:
        """Nothing, or the Ctrl-C that came while a record was made, now that it is kept."""
        if self._interrupted:
            raise KeyboardInterrupt

    def _cache_key(
        self, cell: Cell, measurement: MeasurementSpec, noise: bool = False
    ) -> str | None:
        """The key of a stored record; None where only a new measurement will do."""
        if not self._settings.isolate:
            return None  # a shared process is no clean one
        files = self._executor.find_files(cell)
        return cell_key(cell, files, measurement, self._machine, self.suite.folder, noise)


def _scrub_record(record: Record) -> Record:
    return Record.model_validate(scrub(record.model_dump()))
