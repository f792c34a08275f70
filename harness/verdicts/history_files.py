"""Every value's observations over time, from the run files in a folder."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from harness.catalog import UnknownNameError, load_measurement
from harness.descriptions import ValueSpec
from harness.records.find_runs import name_device
from harness.records.identity import identify_series, list_suspects
from harness.records.record import Record, Value
from harness.records.run_file import Run, read_run
from harness.records.values import base_name
from harness.verdicts.history import Observation


@dataclass(frozen=True)
class Wanted:
    """What was asked for, empty for everything; metrics are ``measurement.value[qualifier]``."""

    suites: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def has_record(self, record: Record) -> bool:
        """Whether any value of this record may be wanted."""
        if self.cells and record.cell.id not in self.cells:
            return False
        prefix = f"{record.measurement}."
        return not self.metrics or any(metric.startswith(prefix) for metric in self.metrics)

    def has_value(self, metric: str) -> bool:
        """Whether this value is wanted: those named, else those that thresholds are kept of."""
        if self.metrics:
            return metric in self.metrics or base_name(metric) in self.metrics
        spec = find_spec(metric)
        return spec is not None and spec.margin is not None and not spec.paired


class SuiteOnDevice(NamedTuple):
    """Runs of one suite on one device, named as run files name it."""

    suite: str
    device: str


class SeriesKey(NamedTuple):
    """Whose observations form a series."""

    runs_of: SuiteOnDevice
    cell: str
    metric: str


@dataclass(frozen=True)
class RunSeen:
    """A run file, without its records."""

    id: str
    utc: str
    dirty: bool


@dataclass
class Values:
    """The observations of one value, in no order, with the unit and direction stored with it."""

    unit: str
    better: Literal["lower", "higher"] | None
    observations: list[Observation] = field(default_factory=list)


@dataclass
class Reading:
    """What the files hold.

    ``left_out`` counts records and values without a number, by reason; ``unreadable`` says what is
    wrong with each file that could not be read, ``others`` counts JSON files that are not run
    files; ``known`` holds the names of all suites, cells and metrics found.
    """

    values: dict[SeriesKey, Values] = field(default_factory=dict)
    runs: dict[SuiteOnDevice, dict[str, RunSeen]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    others: int = 0
    known: dict[str, set[str]] = field(
        default_factory=lambda: {"suite": set(), "cell": set(), "metric": set()}
    )


def read_folder(folder: Path, wanted: Wanted) -> Reading:
    """All run files below ``folder``; a second copy of a run counts once."""
    reading = Reading()
    for path in sorted(folder.rglob("*.json")):
        try:
            run = read_run(path)
            utc = _normalise_utc(run.run.utc)
        except ValueError as error:
            if _is_run_file(path):
                shown = str(error) if str(path) in str(error) else f"{path}: {error}"
                reading.unreadable.append(shown)
            else:
                reading.others += 1
            continue
        _add(reading, run, utc, wanted)
    return reading


@cache
def find_spec(metric: str) -> ValueSpec | None:
    """The description of ``measurement.value[qualifier]``; None where it is unknown."""
    measurement, _, name = metric.partition(".")
    try:
        return load_measurement(measurement).values.get(base_name(name))
    except UnknownNameError:
        return None


def _add(reading: Reading, run: Run, utc: str, wanted: Wanted) -> None:
    runs_of = SuiteOnDevice(str(run.suite.get("name")), name_device(run))
    reading.known["suite"].add(runs_of.suite)
    seen = reading.runs.setdefault(runs_of, {}) if _has(wanted.suites, runs_of.suite) else None
    if seen is None or run.run.id in seen:
        return
    seen[run.run.id] = RunSeen(run.run.id, utc, bool(run.run.git_dirty))
    for record in run.records:
        if record.noise:
            continue
        values = {
            f"{record.measurement}.{name}": value
            for name, value in (*record.values.items(), *record.paired.items())
        }
        reading.known["cell"].add(record.cell.id)
        reading.known["metric"].update(values)
        if not wanted.has_record(record):
            continue
        if not record.usable:
            reading.left_out[f"records {record.validity.status}"] += 1
            continue
        chosen = {name: value for name, value in values.items() if wanted.has_value(name)}
        _add_values(reading, run, utc, runs_of, record, chosen)


def _add_values(
    reading: Reading,
    run: Run,
    utc: str,
    runs_of: SuiteOnDevice,
    record: Record,
    values: dict[str, Value],
) -> None:
    identity = identify_series(record)
    suspects = list_suspects(run.environment)
    for metric, value in values.items():
        if value.value is None:
            reading.left_out["values unavailable"] += 1
            continue
        key = SeriesKey(runs_of, record.cell.id, metric)
        series = reading.values.setdefault(key, Values(value.unit, value.better))
        series.observations.append(
            Observation(
                run=record.reused_from or run.run.id,
                utc=utc,
                sha=run.run.git_sha,
                dirty=run.run.git_dirty,
                value=value.value,
                identity=identity,
                conditions=suspects,
            )
        )


def _has(names: tuple[str, ...], name: str) -> bool:
    return not names or name in names


def _is_run_file(path: Path) -> bool:
    """Whether an unreadable file is a damaged run file, and not JSON of another kind."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return True
    return not isinstance(data, dict) or bool({"run", "records"} & data.keys())


def _normalise_utc(text: str) -> str:
    """The time in one form, so that it can be sorted; raises ValueError."""
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    time = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return time.astimezone(timezone.utc).isoformat(timespec="seconds")
