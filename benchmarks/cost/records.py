"""What keeping, judging and showing records takes, beside the measuring that made them.

A real suite is run once by pytest. Its records then go through the real `SuiteRun` again, which is
given them instead of measuring: journal, judgement, run file and matrix are timed alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cost.row import Cost
from harness.records.record import Record
from harness.records.run_file import Run, read_run
from harness.report.summary import summarise_run
from harness.report.terminal import write_terminal
from harness.run.executor import LocalExecutor
from harness.run.machine import Machine, inspect_machine
from harness.run.settings import RunSettings
from harness.run.suite_run import SuiteRun
from harness.suite.cells import Cell, build_cells
from harness.suite.models import MeasurementSpec, Suite
from harness.suite.read import load_suite
from harness.worker.messages import Failure

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = 0.01
MANY = 1000
Key = tuple[str, str, bool]


def measure_records(device: str, rounds: int, work: Path) -> list[Cost]:
    """Shares of the measuring: of the smoke suite as it is, and grown to 1,000 records."""
    suite_file = ROOT / "suites/smoke.yaml"
    start = time.perf_counter()
    run = run_suite(suite_file, device, work)
    whole = time.perf_counter() - start
    made = {(r.cell.precision, r.measurement, r.noise): r for r in run.records}
    measuring = sum(record.seconds["total"] for record in run.records)
    machine = inspect_machine(device, ROOT, online=False)
    few = [replay(load_suite(suite_file), made, machine, work / f"few-{i}") for i in range(rounds)]
    grown = grow_suite(suite_file, -(-MANY // len(made)), work)
    many = [replay(load_suite(grown), made, machine, work / f"many-{i}") for i in range(rounds)]
    base_is = "measuring"
    per_record = [measuring / len(run.records) * count for count, _ in many]
    return [
        _cost(f"records: {few[0][0]} kept, judged, shown", base_is, [measuring] * rounds, few),
        _cost(f"records: {many[0][0]:,} kept, judged, shown", base_is, per_record, many),
        Cost(
            "run: pytest, all but measuring",
            base_is,
            "s",
            (measuring,),
            (whole - measuring,),
            "share",
        ),
    ]


def _cost(
    what: str, base_is: str, base: Sequence[float], found: Sequence[tuple[int, float]]
) -> Cost:
    return Cost(what, base_is, "s", tuple(base), tuple(s for _, s in found), "share", TARGET)


def run_suite(suite_file: Path, device: str, work: Path) -> Run:
    """The run file of one pytest process; limits may fail, records may not be missing."""
    results = work / "runs"
    command = [sys.executable, "-m", "pytest", str(suite_file), "--device", device]
    done = subprocess.run(
        [*command, "--results", str(results), "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "PRECISION_HARNESS_CACHE": str(work / "cache")},
        capture_output=True,
        text=True,
    )
    paths = list(results.glob("*/*.json"))
    if len(paths) != 1:
        raise SystemExit(f"{suite_file.name} left no run file:\n{done.stdout}{done.stderr}")
    return read_run(paths[0])


def grow_suite(suite_file: Path, models: int, work: Path) -> Path:
    """The suite with its model under ``models`` names."""
    import yaml

    suite = yaml.safe_load(suite_file.read_text(encoding="utf-8"))
    (model,) = suite["models"]
    suite["models"] = [{**model, "name": f"{model['name']}-{i}"} for i in range(models)]
    path = work / "grown.yaml"
    path.write_text(json.dumps(suite), encoding="utf-8")  # JSON is YAML
    return path


def replay(
    suite: Suite, made: dict[Key, Record], machine: Machine, results: Path
) -> tuple[int, float]:
    """Records kept, and the seconds from the first to the matrix."""

    class Replayed(LocalExecutor):
        """Answers with records that were measured before."""

        def measure(
            self,
            cell: Cell,
            measurement: MeasurementSpec,
            reference: Record | None = None,
            processes: list[Record] | None = None,
        ) -> Record:
            again = cell.precision.name == suite.reference and reference is not None
            record = made[cell.precision.name, measurement.name, again]
            named = record.cell.model_copy(update={"id": cell.id, "model": cell.model.name})
            update = {"cell": named, "paired": {}, "verdicts": ()}
            return record.model_copy(update=update)

        def find_files(self, cell: Cell) -> Failure:
            return Failure("skipped", "replayed")  # and so no record is looked for in the cache

    planned = [(cell, spec) for cell in build_cells(suite) for spec in cell.measurements]
    start = time.perf_counter()
    settings = RunSettings(results, (), root=results)
    notices: list[str] = []
    executor = Replayed(suite.folder, machine, lambda *_: None)
    run = SuiteRun(suite, planned, machine, settings, lambda *_: None, notices.append, executor)
    for cell, spec in planned:
        run.measure(cell, spec)
    finished = run.finish()
    assert finished is not None
    write_terminal(summarise_run(finished, run.path.name))
    return len(finished.records), time.perf_counter() - start
