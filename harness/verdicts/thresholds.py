"""Thresholds: what a project has measured and blessed on one device, as a file.

``results/thresholds/<suite>/<device>.json`` is committed and reviewed like code.
`harness.verdicts.bless` makes one of runs, `harness.verdicts.threshold_verdicts` judges by one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.errors import InputError
from harness.records.identity import Difference, find_differences, identify, list_outcomes
from harness.records.record import Record, Value
from harness.records.values import base_name

SCHEMA = 1
FOLDER = Path("results/thresholds")
_NAME = re.compile(r"[\w][\w .-]*")  # nothing that leads out of the folder
_LONG = 40  # characters of a fact, beyond which its hash says as much


class _Frozen(BaseModel):
    """Nothing is coerced and no number is NaN or infinite: such a margin would pass anything."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Threshold(_Frozen):
    """One blessed number.

    ``spread`` is the standard deviation of one sample: of the logarithms of ``n`` processes for
    what is sampled by processes, of ``n`` A/A runs in the value's unit otherwise; None where a
    single one was blessed. ``margin`` is in the value's unit, None where the spread leaves none.
    ``row`` says which items were right, packed (`pack_row`), so that a share of right items is
    judged item by item.
    """

    value: int | float
    unit: str
    better: Literal["lower", "higher"]
    margin: float | None = Field(ge=0)
    spread: float | None = Field(ge=0)
    n: int = Field(ge=1)
    row: str | None = None

    @model_validator(mode="after")
    def _check_spread(self) -> Threshold:
        if self.spread is not None and self.n < 2:
            raise ValueError(f"a spread is of 2 samples or more, found n = {self.n}")
        if self.margin is None and self.spread is None:
            raise ValueError("without a margin there must be the spread that leaves none")
        return self


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

    model_config = ConfigDict(populate_by_name=True)

    def find(self, record: Record) -> Blessed | None:
        """What was blessed of this record's cell and measurement."""
        return self.cells.get(record.cell.id, {}).get(record.measurement)


def path_of(root: Path, suite: str, device: str) -> Path:
    """Where the thresholds of a suite lie; ``device`` is the slug in a run file's name."""
    for name in (suite, device):
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name of a suite or device, and no file is made of it")
    return root / FOLDER / suite / f"{device}.json"


def parse_thresholds(content: bytes, where: str) -> Thresholds:
    """Raises `InputError` naming the file and the field that is wrong."""
    try:
        data = json.loads(content, object_pairs_hook=_refuse_twice)
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


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A merge may leave two entries of one cell, of which JSON would take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return found


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
    facts = identify(environment, record).facts
    return {name: _shorten(value) for name, value in facts.items() if value is not None}


def hash_items(record: Record) -> str | None:
    """One hash of every item's outcome; None for a record without items."""
    items = list_outcomes(record.items)
    if not items:
        return None
    text = json.dumps(items, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_row(record: Record, value: float | None) -> str | None:
    """The row of right and wrong items (1, 0, - for unscored) whose share of right ones this is."""
    for name, row in record.items.items():
        scored = row.replace("-", "") if name.startswith("right") and isinstance(row, str) else ""
        if scored and scored.count("1") / len(scored) == value:
            return str(row)
    return None


def pack_row(row: str) -> str:
    """A row as a line of text, an eighth of its length and less."""
    digits = row.translate(str.maketrans("01-", "012"))
    return base64.b85encode(zlib.compress(digits.encode(), 9)).decode()


def unpack_row(packed: str) -> str:
    """Raises ValueError for what `pack_row` did not make."""
    try:
        digits = zlib.decompress(base64.b85decode(packed)).decode()
    except zlib.error as error:
        raise ValueError(f"a row of items cannot be read: {error}") from None
    return digits.translate(str.maketrans("012", "01-"))


def list_judged(record: Record) -> list[tuple[str, ValueSpec, Value]]:
    """The values that thresholds are kept of: totals rather than their parts."""
    specs = load_measurement(record.measurement).values
    found = []
    for name, value in record.values.items():
        spec = specs.get(base_name(name))
        part = base_name(name) != name and base_name(name) in record.values
        if spec is not None and spec.margin is not None and spec.better is not None and not part:
            found.append((name, spec, value))
    return found


def find_changes(
    blessed: Blessed, environment: Mapping[str, Any], record: Record
) -> tuple[Difference, ...]:
    """The facts that are not what they were when blessed."""
    return find_differences(blessed.facts, facts_of(environment, record))


def list_unmeasured(thresholds: Thresholds, records: Iterable[Record]) -> list[str]:
    """``cell measurement`` of what was blessed and has no record here."""
    measured = {(record.cell.id, record.measurement) for record in records}
    return [
        f"{cell} {name}"
        for cell, measurements in thresholds.cells.items()
        for name in measurements
        if (cell, name) not in measured
    ]


def _shorten(value: Any) -> Any:
    """A fact as it is where it is short; else a hash of its JSON."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) <= _LONG:
        return value
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
