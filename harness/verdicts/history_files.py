"""The nights of every value in a folder of run files.

Files are read as JSON and not checked field by field, for there may be hundreds of large ones; one
that does not fit is read again as a run file, to be told what is wrong with it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from harness.catalog import UnknownNameError, load_measurement
from harness.descriptions import ValueSpec
from harness.records.run_file import SCHEMA, read_run
from harness.records.run_sources import name_device
from harness.records.values import base_name
from harness.verdicts.history import Night
from harness.verdicts.pairing import keep_meaning

_USABLE = ("ok", "flagged")


@dataclass(frozen=True)
class Selection:
    """What was asked for, empty for all; a metric is ``measurement.value``, any qualifier."""

    suites: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def has_measurement(self, name: str) -> bool:
        """Whether any of its values may be wanted."""
        return not self.metrics or any(metric.startswith(f"{name}.") for metric in self.metrics)

    def has_value(self, metric: str) -> bool:
        """Whether this value is wanted: what was named, else what thresholds are kept of."""
        if self.metrics:
            return metric in self.metrics or base_name(metric) in self.metrics
        spec = find_spec(metric)
        return spec is not None and spec.margin is not None and not spec.paired


class Place(NamedTuple):
    """Where runs are of one kind: the suite, and the device as files are named by it."""

    suite: str
    device: str


class Key(NamedTuple):
    """What a series is of."""

    place: Place
    cell: str
    metric: str


@dataclass(frozen=True)
class RunSeen:
    """A run file, without what is in it."""

    id: str
    utc: str
    dirty: bool


@dataclass
class Values:
    """The nights of one value, in no order, with the unit and direction it was stored with."""

    unit: str
    better: Any
    nights: list[Night] = field(default_factory=list)


@dataclass
class Reading:
    """What the files hold: values by key, runs by place; what was passed over, and why.

    ``unreadable`` says what is wrong with each such file, ``others`` counts JSON files that are no
    run files; ``known`` are the names of suites, cells and metrics that there are.
    """

    values: dict[Key, Values] = field(default_factory=dict)
    runs: dict[Place, dict[str, RunSeen]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    others: int = 0
    known: dict[str, set[str]] = field(
        default_factory=lambda: {"suite": set(), "cell": set(), "metric": set()}
    )


def read_folder(folder: Path, wanted: Selection) -> Reading:
    """All run files below ``folder``; a second copy of a run counts once."""
    reading = Reading()
    for path in sorted(folder.rglob("*.json")):
        try:
            data = json.loads(path.read_bytes())
            if isinstance(data, dict) and not {"run", "records"} & data.keys():
                reading.others += 1
                continue
            if data["schema"] not in range(1, SCHEMA + 1):
                raise ValueError(f"schema {data['schema']!r}")
            found = _File(data)
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            reading.unreadable.append(_explain(path, error))
            continue
        _add(reading, found, wanted)
    return reading


@cache
def find_spec(metric: str) -> ValueSpec | None:
    """What ``measurement.value[qualifier]`` is declared as; None where no such thing is known."""
    measurement, _, name = metric.partition(".")
    try:
        specs: Mapping[str, ValueSpec] = load_measurement(measurement).values
    except UnknownNameError:
        return None
    return specs.get(base_name(name))


@dataclass(frozen=True)
class _Number:
    metric: str
    value: float | None
    unit: str
    better: Any


@dataclass(frozen=True)
class _Row:
    """A record: its numbers, and what they depend on."""

    cell: str
    measurement: str
    status: str
    origin: str
    identity: dict[str, Any]
    numbers: list[_Number]


class _File:
    """One run file's content; raises as a dict does where it is not made as a run file is."""

    def __init__(self, data: dict[str, Any]) -> None:
        run, environment = data["run"], data["environment"]
        self.sha: str | None = run["git_sha"]
        self.seen = RunSeen(str(run["id"]), _read_utc(run["utc"]), bool(run["git_dirty"]))
        self.place = Place(str(data["suite"]["name"]), name_device(run["device"], environment))
        self.conditions = dict(_list_conditions(environment))
        self.rows = [_read_row(r, self.seen.id) for r in data["records"] if not r.get("noise")]


def _add(reading: Reading, file: _File, wanted: Selection) -> None:
    reading.known["suite"].add(file.place.suite)
    if wanted.suites and file.place.suite not in wanted.suites:
        return
    runs = reading.runs.setdefault(file.place, {})
    if file.seen.id in runs:
        return
    runs[file.seen.id] = file.seen
    for row in file.rows:
        reading.known["cell"].add(row.cell)
        reading.known["metric"].update(number.metric for number in row.numbers)
        if wanted.cells and row.cell not in wanted.cells:
            continue
        if not wanted.has_measurement(row.measurement):
            continue
        if row.status not in _USABLE:
            reading.left_out[f"records {row.status}"] += 1
            continue
        for number in row.numbers:
            if not wanted.has_value(number.metric):
                continue
            if number.value is None:
                reading.left_out["values unavailable"] += 1
                continue
            key = Key(file.place, row.cell, number.metric)
            values = reading.values.setdefault(key, Values(number.unit, number.better))
            values.nights.append(
                Night(
                    run=row.origin,
                    utc=file.seen.utc,
                    sha=file.sha,
                    dirty=file.seen.dirty,
                    value=number.value,
                    identity=row.identity,
                    conditions=file.conditions,
                )
            )


def _read_row(record: dict[str, Any], run: str) -> _Row:
    cell, measurement = record["cell"], record["measurement"]
    protocol = record.get("protocol", {})
    identity = {
        # Random weights have no file: what they are made of stands for them.
        "weights": cell.get("weights_sha256") or cell["source"],
        "tokenizer": cell.get("tokenizer_sha256"),
        **{f"precision.{name}": value for name, value in cell.get("declared", {}).items()},
        # Beside an empty one, all fields differ that say what was measured.
        **{
            f"protocol.{name}": value
            for name, value in keep_meaning(protocol).items()
            if value is not None
        },
        "protocol.tokenizer_sha256": None,  # the one above
    }
    numbers = [
        _Number(
            f"{measurement}.{name}", _read_number(v["value"]), v.get("unit", ""), v.get("better")
        )
        for group in (record.get("values", {}), record.get("paired", {}))
        for name, v in group.items()
    ]
    origin = record.get("reused_from") or run
    status = record.get("validity", {}).get("status", "ok")
    return _Row(cell["id"], measurement, status, origin, identity, numbers)


def _read_number(value: Any) -> float | None:
    """None where unavailable or not finite; raises TypeError for what is no number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, found {value!r}")
    return value if math.isfinite(value) else None


def _read_utc(text: str) -> str:
    """The time in one form, so that it can be sorted; raises ValueError."""
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    time = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return time.astimezone(timezone.utc).isoformat(timespec="seconds")


def _list_conditions(environment: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What may differ between nights of a series, and is named where a shift came with it."""
    yield from environment.get("libraries", {}).items()
    for group, names in (
        ("python", ("version",)),
        ("gpu", ("driver",)),
        ("cpu", ("usable_cores", "quota_cores")),
        ("torch", ("threads",)),
        ("harness", ("version",)),
    ):
        for name in names:
            yield f"{group}.{name}", environment.get(group, {}).get(name)
    boards = environment.get("gpu", {}).get("devices") or [{}]
    yield "gpu.power_limit_w", boards[0].get("power_limit_w")


def _explain(path: Path, error: Exception) -> str:
    """What is wrong with a file that could not be made use of."""
    try:
        read_run(path)
    except ValueError as told:
        return str(told)
    return f"{path}: not a valid run file: {error}"
