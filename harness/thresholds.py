"""Thresholds: what a project has measured and blessed on one device, and records judged by them.

``results/thresholds/<suite>/<device>.json`` is committed and reviewed like code. Making one of runs
is `harness.bless`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.catalog import load_measurement
from harness.comparability import Difference, describe
from harness.compare import outcomes
from harness.errors import InputError
from harness.judge import HOW
from harness.metrics._speed_processes import processes_of
from harness.options import ValueSpec
from harness.record import Record, Value, Verdict
from harness.statistics import (
    Outcome,
    Processes,
    judge_harm,
    smallest_detectable,
    t_quantile,
    welch_ratio_interval,
)
from harness.values import base_name

SCHEMA = 1
FOLDER = Path("results/thresholds")
_LONG = 40  # characters of a fact, beyond which its hash says as much
_NORMAL_95 = 1.6448536269514722


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Threshold(_Frozen):
    """One blessed number.

    ``spread`` is the standard deviation of one sample: of the logarithms of ``n`` processes for
    what is sampled by processes, of ``n`` A/A runs in the value's unit otherwise; None where a
    single one was blessed. ``margin`` is in the value's unit, None where the spread leaves none.
    """

    value: int | float
    unit: str
    better: Literal["lower", "higher"]
    margin: float | None
    spread: float | None
    n: int


class Blessed(_Frozen):
    """The thresholds of one measurement of one cell, and all that they depend on.

    ``items`` is the hash of the items' outcomes.
    """

    commit: str
    run: str
    when: str
    reason: str
    items: str | None
    facts: dict[str, Any]
    values: dict[str, Threshold]


class Thresholds(_Frozen):
    """One thresholds file: cells, in them measurements."""

    schema_version: int = Field(SCHEMA, alias="schema")
    suite: str
    device: str
    cells: dict[str, dict[str, Blessed]]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def find(self, record: Record) -> Blessed | None:
        """What was blessed of this record's cell and measurement."""
        return self.cells.get(record.cell.id, {}).get(record.measurement)


def path_of(root: Path, suite: str, device: str) -> Path:
    """Where the thresholds of a suite lie; ``device`` is the slug in a run file's name."""
    return root / FOLDER / suite / f"{device}.json"


def parse_thresholds(content: bytes, where: str) -> Thresholds:
    """Raises `InputError` naming the file and the field that is wrong."""
    try:
        data = json.loads(content)
    except ValueError as error:
        raise InputError(f"{where}: not a readable thresholds file: {error}") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise InputError(f"{where}: expected thresholds of schema {SCHEMA}, found {found!r}")
    try:
        return Thresholds.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}: {place}: {first['msg']}") from None


def read_thresholds(path: Path) -> Thresholds:
    """Raises `InputError` as `parse_thresholds` does, and where there is no such file."""
    try:
        return parse_thresholds(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def write_thresholds(thresholds: Thresholds, path: Path) -> None:
    """Atomically, keys in a stable order, so that a diff shows what was blessed anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = thresholds.model_dump(mode="json", by_alias=True)
    data["cells"] = {
        cell: {name: _sort(blessed) for name, blessed in sorted(measurements.items())}
        for cell, measurements in sorted(data["cells"].items())
    }
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(data, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _sort(blessed: dict[str, Any]) -> dict[str, Any]:
    return {**blessed, **{key: dict(sorted(blessed[key].items())) for key in ("facts", "values")}}


def facts_of(environment: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """What a threshold depends on: machine, libraries, weights, protocol; long ones as hashes."""
    protocol = {f"protocol.{k}": v for k, v in record.protocol.items() if k not in HOW}
    facts = describe(environment, record) | protocol
    return {name: _shorten(value) for name, value in facts.items() if value is not None}


def hash_items(record: Record) -> str | None:
    """One hash of every item's outcome; None for a record without items."""
    items = outcomes(record.items)
    if not items:
        return None
    text = json.dumps(items, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_judged(record: Record) -> list[tuple[str, ValueSpec, Value]]:
    """The values that thresholds are kept of: totals rather than their parts."""
    specs = load_measurement(record.measurement).VALUES
    found = []
    for name, value in record.values.items():
        spec = specs.get(base_name(name))
        part = base_name(name) != name and base_name(name) in record.values
        if spec is not None and spec.margin is not None and spec.better is not None and not part:
            found.append((name, spec, value))
    return found


def judge_thresholds(
    thresholds: Thresholds, environment: Mapping[str, Any], record: Record
) -> tuple[Verdict, ...]:
    """A verdict per blessed value of this record; none where it has failed, or nothing is blessed.

    The harm is the distance from the blessed value. The sampling error of items is no part of it:
    both are of the same items.
    """
    blessed = thresholds.find(record)
    if blessed is None or record.noise or record.validity.status in ("failed", "skipped"):
        return ()
    differences = find_changes(blessed, environment, record)
    if differences:
        changed = ", ".join(map(str, differences))
        text = (
            f"{record.cell.id} {record.measurement} cannot be judged against the thresholds of "
            f"{blessed.commit[:10]}: {changed} changed; bless it anew where that was meant"
        )
        return (
            Verdict(
                verdict="INCONCLUSIVE",
                metric=record.measurement,
                bound=f"threshold of {blessed.commit[:10]}",
                value=None,
                text=text,
                against="threshold",
            ),
        )
    same = blessed.items is not None and blessed.items == hash_items(record)
    return tuple(
        _judge(record, name, threshold, blessed, same) for name, threshold in blessed.values.items()
    )


def find_changes(
    blessed: Blessed, environment: Mapping[str, Any], record: Record
) -> list[Difference]:
    """The facts that are not what they were when blessed."""
    now = facts_of(environment, record)
    return [
        Difference(name, blessed.facts.get(name), now.get(name))
        for name in sorted(blessed.facts.keys() | now.keys())
        if blessed.facts.get(name) != now.get(name)
    ]


def list_unmeasured(thresholds: Thresholds, records: Iterable[Record]) -> list[str]:
    """``cell measurement`` of what was blessed and has no record here."""
    measured = {(record.cell.id, record.measurement) for record in records}
    return [
        f"{cell} {name}"
        for cell, measurements in thresholds.cells.items()
        for name in measurements
        if (cell, name) not in measured
    ]


def propose_tighter(
    thresholds: Thresholds, environment: Mapping[str, Any], records: Iterable[Record]
) -> list[str]:
    """A sentence per value that is surely better than blessed, by more than the margin."""
    proposals = []
    for record in records:
        blessed = thresholds.find(record)
        if blessed is None or not record.usable or find_changes(blessed, environment, record):
            continue
        for name, threshold in blessed.values.items():
            found = record.values.get(name)
            harm = None if found is None else _harm(found, threshold, _spec(record, name))
            if harm is None or threshold.margin is None or threshold.value == 0:
                continue
            if harm.upper < -threshold.margin:
                gain = -harm.harm / abs(threshold.value)
                proposals.append(
                    f"{record.cell.id} {record.measurement}.{name} is {gain:.1%} better than its "
                    "threshold: `harness bless` this run to hold it"
                )
    return proposals


class _Harm(_Frozen):
    """How much worse than blessed, in the value's unit, with one-sided 95 % bounds."""

    harm: float
    lower: float
    upper: float
    stderr: float = 0.0


def _spec(record: Record, name: str) -> ValueSpec:
    spec: ValueSpec = load_measurement(record.measurement).VALUES[base_name(name)]
    return spec


def _harm(found: Value, threshold: Threshold, spec: ValueSpec) -> _Harm | None:
    """None where the value is unavailable, or nothing is known of the spread of processes."""
    if found.value is None:
        return None
    sign = 1 if threshold.better == "lower" else -1
    if spec.sampled == "processes":
        blessed = Processes(threshold.value, threshold.spread, threshold.n)
        now = processes_of(found)
        if now is None or (now.spread is None and blessed.spread is None):
            return None
        ratio = welch_ratio_interval(blessed, now)
        harms = [sign * (r - 1) * threshold.value for r in (ratio.value, ratio.lower, ratio.upper)]
        stderr = (ratio.stderr or 0.0) * threshold.value
        return _Harm(harm=harms[0], lower=min(harms), upper=max(harms), stderr=stderr)
    harm = sign * (found.value - threshold.value)
    if not threshold.spread or threshold.n < 2:
        return _Harm(harm=harm, lower=harm, upper=harm)
    stderr = threshold.spread * math.sqrt(1 + 1 / threshold.n)
    reach = t_quantile(0.95, threshold.n - 1) * stderr
    return _Harm(harm=harm, lower=harm - reach, upper=harm + reach, stderr=stderr)


def _judge(
    record: Record, name: str, threshold: Threshold, blessed: Blessed, same: bool
) -> Verdict:
    metric = f"{record.measurement}.{name}"
    found = record.values.get(name, Value(value=None))
    spec = _spec(record, name)
    harm = _harm(found, threshold, spec)
    bound = f"{threshold.value:.6g} ± {threshold.margin:.3g}" if threshold.margin else "no margin"
    outcome: Outcome
    if same:
        outcome, told = "PASS", "every item is as it was"
    elif found.value is None:
        outcome, told = "FAIL", "it is unavailable now"
    elif threshold.margin is None:
        outcome = "INCONCLUSIVE"
        told = f"runs of one commit differ by σ = {threshold.spread:.2g}: no margin would tell"
    elif harm is None:
        outcome = "INCONCLUSIVE"
        told = "neither side has the spread between processes: bless from 3 or more of them"
    elif harm.stderr == 0:
        outcome, told = "FAIL" if harm.harm > threshold.margin else "PASS", ""
    else:
        outcome = judge_harm(harm.harm, harm.lower, harm.upper, threshold.margin)
        told = f"95 % bounds of the change {harm.lower:+.3g} to {harm.upper:+.3g} (worse is +)"
    smallest = None
    if harm is not None and threshold.margin is not None and harm.stderr:
        smallest = smallest_detectable(harm.stderr, threshold.margin)
        told += f"; harm is seen with 80 % power from {smallest:.3g} on"
    unit = f" {found.unit}" if found.unit else ""
    now = "unavailable" if found.value is None else f"{found.value:.6g}{unit}"
    change = ""
    if found.value is not None and threshold.value:
        change = f" ({found.value / threshold.value - 1:+.2%})"
    text = (
        f"{record.cell.id}: {metric} is {now}, blessed at {blessed.commit[:10]} were "
        f"{threshold.value:.6g}{unit}{change}, the margin is "
        + ("none" if threshold.margin is None else f"{threshold.margin:.3g}")
    )
    return Verdict(
        verdict=outcome,
        metric=metric,
        bound=bound,
        value=found.value,
        text=f"{text}; {told}." if told else f"{text}.",
        against="threshold",
        bounds=None if harm is None else (harm.lower, harm.upper),
        smallest_detectable=smallest,
    )


def _shorten(value: Any) -> Any:
    """A fact as it is where it is short; else a hash of its JSON."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) <= _LONG:
        return value
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
