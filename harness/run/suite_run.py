"""Run one suite: what is measured, what stands in for it, and what is kept. No pytest.

Every record goes to the journal as soon as it exists and into one run file at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.catalog import load_measurement
from harness.descriptions import vary_batch
from harness.machine.privacy import scrub
from harness.records.journal import Journal, recover_journals
from harness.records.questions import fetch_questions
from harness.records.record import Record
from harness.records.run_file import SCHEMA, Run, RunFacts, write_run
from harness.run.executor import CellRunner, Interrupted, OnProgress
from harness.run.machine import Machine
from harness.run.references import find_reference, keep_reference, reference_key
from harness.suite.cells import Cell, cell_id, has_paired_values, sort_fresh_first
from harness.suite.models import (
    MeasurementSpec,
    ModelSpec,
    PrecisionSpec,
    Suite,
    resolved,
    suite_sha256,
)
from harness.verdicts.baseline import find_baseline
from harness.verdicts.pairing import complete_record, complete_records
from harness.verdicts.power_warnings import announce_items, announce_processes
from harness.verdicts.thresholds import Thresholds, list_unmeasured
from harness.worker.messages import Failure, Progress


@dataclass(frozen=True)
class RunSettings:
    """How to run: where results go, whether cells get a process, how long one may take.

    ``against`` names what the run is judged by beside its limits, see `find_baseline`.
    """

    results: Path
    argv: tuple[str, ...]
    root: Path
    against: str | None = None
    isolate: bool = True
    cell_timeout_s: float | None = None


class SuiteRun:
    """One suite's run: measures on request, journals every record, writes the run file."""

    def __init__(
        self,
        suite: Suite,
        planned: Iterable[tuple[Cell, MeasurementSpec]],
        machine: Machine,
        settings: RunSettings,
        on_progress: OnProgress,
        on_notice: Callable[[str], None],
    ) -> None:
        self.suite = suite
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._announced: set[str] = set()
        self.planned = tuple(planned)
        self._isolate = settings.isolate
        self._machine = machine
        self._interrupted = False
        self._records: dict[tuple[str, str], Record] = {}
        self._noise: dict[tuple[str, str], Record] = {}
        self._reference = next((p for p in suite.precisions if p.name == suite.reference), None)
        self._cells = CellRunner(
            suite.folder, machine, self._follow, settings.isolate, settings.cell_timeout_s
        )
        self._start = time.monotonic()
        self.result: Run | None = None  # what the run file holds, once it is written
        folder = settings.results / suite.name
        self.recovered = recover_journals(folder)
        started = datetime.now(timezone.utc)
        stem = _name_run(folder, started, machine)
        self.path = folder / f"{stem}.json"
        git = machine.environment["git"]
        self.baseline = find_baseline(settings.against, suite.name, machine.slug, settings.root)
        self._header = Run(
            schema=SCHEMA,
            run=RunFacts(
                id=f"{suite.name}/{stem}",
                utc=started.isoformat(timespec="seconds"),
                argv=scrub(list(settings.argv)),
                git_sha=git["sha"],
                git_dirty=git["dirty"],
                device=machine.device.device,
                device_name=machine.description,
                baseline=self.baseline.name if self.baseline is not None else None,
            ),
            environment=machine.environment,
            suite=scrub(_describe_suite(suite, settings.root)),
            records=(),
        )
        self._journal = Journal(folder / f"{stem}.journal.jsonl", self._header)
        for cell, spec in self.planned:
            names = cell.model.name, cell.precision.name
            self._announce(announce_processes(suite.limits, *names, spec))

    def measure(self, cell: Cell, measurement: MeasurementSpec) -> Record:
        """Measure, journal, then set beside the reference and judge: the returned record."""
        self._prepare_reference(cell)
        record = self._find_or_measure(cell.model, cell.precision, measurement, asked_for=True)
        reference = self._reference_of(cell.model, measurement)
        noise = None
        if self._reference is not None:
            noise = self._noise.get((cell_id(cell.model, self._reference), measurement.name))
        return self._judge(complete_record(self.suite, record, reference, noise))

    @property
    def missing(self) -> list[tuple[Cell, MeasurementSpec]]:
        """What was planned and has no record: not yet, or cut off."""
        return [(c, spec) for c, spec in self.planned if (c.id, spec.name) not in self._records]

    def _follow(self, cell: str, measurement: str, progress: Progress) -> None:
        """Hand progress on; the number of items tells which limits cannot be decided."""
        if progress.done == 0 and progress.unit == "items":
            for planned, spec in self.planned:
                names = planned.model.name, planned.precision.name
                if spec.name == measurement and cell.startswith(f"{names[0]}["):
                    self._announce(
                        announce_items(self.suite.limits, *names, spec.name, progress.total)
                    )
        self._on_progress(cell, measurement, progress)

    def _announce(self, texts: Iterable[str]) -> None:
        for text in texts:
            if text not in self._announced:
                self._announced.add(text)
                self._on_notice(text)

    def remarks(self) -> list[str]:
        """What a reader must know of the run as a whole."""
        told = []
        if self.missing:
            made = len(self.planned) - len(self.missing)
            told = [f"interrupted: {made} of {len(self.planned)} measurements made"]
        if self.baseline is not None:
            told.append(f"judged against {self.baseline.name}")
            told += self.baseline.remarks(self._machine.environment, self.completed())
        return told

    def lacks_reference(self, record: Record) -> bool:
        """Whether the record's reference failed, rather than not being there to be measured."""
        if self._reference is None or record.cell.precision == self._reference.name:
            return False
        reference = self._records.get(
            (f"{record.cell.model}[{self._reference.name}]", record.measurement)
        )
        return reference is not None and reference.validity.status in ("failed", "invalid")

    def completed(self) -> tuple[Record, ...]:
        """The records so far with their verdicts, in the suite's order of cells."""
        order = {
            cell_id(m, p): i
            for i, (m, p) in enumerate(
                (m, p) for m in self.suite.models for p in self.suite.precisions
            )
        }
        records = sorted(
            [*self._records.values(), *self._noise.values()],
            key=lambda record: order[record.cell.id],
        )
        return tuple(map(self._judge, complete_records(self.suite, records)))

    def finish(self) -> Path | None:
        """End the last cell and write the run file; None where nothing was measured.

        Raises OSError where the file cannot be written; the journal then stays.
        """
        self._cells.close()
        if not self._records:
            self._journal.remove()
            return None
        facts = self._header.run.model_copy(
            update={
                "duration_s": round(time.monotonic() - self._start, 3),
                "interrupted": self._interrupted or bool(self.missing),
                "remarks": tuple(self.remarks()),
            }
        )
        self.result = self._header.model_copy(update={"run": facts, "records": self.completed()})
        try:
            write_run(self.result, self.path)
        except OSError:
            self._journal.close()
            raise
        self._journal.remove()
        return self.path

    def list_unmeasured(self) -> list[str]:
        """What the thresholds hold and this run has not."""
        stored = self.baseline.stored if self.baseline is not None else None
        return list_unmeasured(stored, self.completed()) if isinstance(stored, Thresholds) else []

    def _judge(self, record: Record) -> Record:
        """With what the baseline says of it behind the verdicts of the limits."""
        if self.baseline is None:
            return record
        verdicts = self.baseline.judge(self._header, record)
        return record.model_copy(update={"verdicts": (*record.verdicts, *verdicts)})

    def _prepare_reference(self, cell: Cell) -> None:
        """Have the reference's record of everything planned for this model, all in one go."""
        reference = self._reference
        if reference is None or cell.precision.name == reference.name:
            return
        needed = {
            spec.name: spec
            for other, spec in self.planned
            if other.model.name == cell.model.name
            and other.precision.name != reference.name
            and has_paired_values(spec.name)
        }
        for spec in sort_fresh_first(needed.values()):
            self._find_or_measure(cell.model, reference, spec, asked_for=False)
        key = cell_id(cell.model, reference)
        missing = [spec for name, spec in needed.items() if (key, name) not in self._noise]
        if self.suite.noise and missing:
            self._cells.close()  # another process than the one that measured the reference
            for spec in sort_fresh_first(missing):
                self._noise[key, spec.name] = self._measure_noise(cell.model, reference, spec)
                self._go_on()
            self._cells.close()

    def _measure_noise(
        self, model: ModelSpec, reference: PrecisionSpec, measurement: MeasurementSpec
    ) -> Record:
        """The reference once more, in other batches, and beside the first time as a candidate."""
        first = self._reference_of(model, measurement)
        if first is not None and not first.usable:
            return first.model_copy(update={"noise": True})
        varied = measurement.model_copy(update={"options": vary_batch(measurement.options)})
        stored = self._reference_key(model, reference, varied, noise=True)
        record = find_reference(stored) if first is not None and first.reused_from else None
        if record is None:
            record = self._measure(model, reference, varied, first)
            keep_reference(stored, record, self._header.run.id)
        record = record.model_copy(
            update={
                "cell": record.cell.model_copy(update={"model": model.name}),
                "reference_only": True,
                "noise": True,
            }
        )
        record = Record.model_validate(scrub(record.model_dump()))
        self._journal.append(record)
        return record

    def _reference_of(self, model: ModelSpec, measurement: MeasurementSpec) -> Record | None:
        if self._reference is None:
            return None
        return self._records.get((cell_id(model, self._reference), measurement.name))

    def _find_or_measure(
        self,
        model: ModelSpec,
        precision: PrecisionSpec,
        measurement: MeasurementSpec,
        asked_for: bool,
    ) -> Record:
        key = (cell_id(model, precision), measurement.name)
        if key in self._records:
            return self._records[key]
        # Asked for later is asked for: never answered from the cache.
        asked_for = asked_for or any((c.id, spec.name) == key for c, spec in self.planned)
        stored = None
        if precision == self._reference:
            stored = self._reference_key(model, precision, measurement)
        record = None if asked_for else find_reference(stored)
        is_intact = load_measurement(measurement.name).is_intact
        if record is not None and not is_intact(record):
            record = None  # what it left in the cache is gone
        if record is None:
            is_reference = precision == self._reference
            reference = None if is_reference else self._reference_of(model, measurement)
            record = self._measure(model, precision, measurement, reference, is_reference)
            keep_reference(stored, record, self._header.run.id)
        record = record.model_copy(
            update={
                "cell": record.cell.model_copy(update={"id": key[0], "model": model.name}),
                "reference_only": not asked_for,
            }
        )
        record = Record.model_validate(scrub(record.model_dump()))
        fetch_questions(record, self.path.parent)
        self._journal.append(record)
        self._records[key] = record
        self._go_on()
        return record

    def _measure(
        self,
        model: ModelSpec,
        precision: PrecisionSpec,
        measurement: MeasurementSpec,
        reference: Record | None,
        is_reference: bool = False,
    ) -> Record:
        """A new record; what Ctrl-C has left of one is kept like any other, then `_go_on` ends."""
        try:
            return self._cells.measure(model, precision, measurement, reference, is_reference)
        except Interrupted as stop:
            self._interrupted = True
            return stop.record

    def _go_on(self) -> None:
        """Nothing, or the Ctrl-C that came while a record was made, now that it is kept."""
        if self._interrupted:
            raise KeyboardInterrupt

    def _reference_key(
        self,
        model: ModelSpec,
        precision: PrecisionSpec,
        measurement: MeasurementSpec,
        noise: bool = False,
    ) -> str | None:
        """What the stored record must agree on; None where nothing may stand in."""
        files = self._cells.find_files(model, precision)
        if isinstance(files, Failure) or model.trust_remote_code or not self._isolate:
            return None  # remote code is in no hash, and a shared process is no clean one
        facts = {
            "model": model.model_dump(mode="json", exclude={"name", "requires"}),
            "revision": files.revision,
            "weights": files.weights_sha256,
            "tokenizer": files.tokenizer_sha256,
            "precision": precision.model_dump(mode="json"),
            "device": [self._machine.device.device, self._machine.device.gpu_name],
        } | ({"noise": True} if noise else {})
        return reference_key(facts, measurement, self.suite.folder, self._machine.environment)


def _describe_suite(suite: Suite, root: Path) -> dict[str, Any]:
    """The resolved suite with all that a report says of its file."""
    file = suite.path.relative_to(root) if suite.path.is_relative_to(root) else suite.path
    limits = [limit.model_dump(mode="json") for limit in suite.limits]
    return {
        **resolved(suite),
        "limits": limits,
        "file": file.as_posix(),
        "sha256": suite_sha256(suite),
    }


def _name_run(folder: Path, started: datetime, machine: Machine) -> str:
    """``<utc>-<git sha>[-dirty]-<device>``, numbered where two runs start in one second."""
    git = machine.environment["git"]
    sha = (git["sha"] or "nogit")[:10] + ("-dirty" if git["dirty"] else "")
    stem = f"{started:%Y%m%dT%H%M%SZ}-{sha}-{machine.slug}"
    candidate, number = stem, 2
    while any((folder / f"{candidate}{end}").exists() for end in (".json", ".journal.jsonl")):
        candidate, number = f"{stem}-{number}", number + 1
    return candidate
