"""Thresholds: what a project has measured and blessed on one device, and the file that holds it.

``results/thresholds/<suite>/<device>.json`` is committed and reviewed like code.
`harness.verdicts.bless` makes it from runs, `harness.verdicts.threshold_verdicts` judges by it.
"""

import base64
import hashlib
import json
import math
import re
import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.descriptions import ValueSpec
from harness.errors import InputError
from harness.machine.files import write_atomically
from harness.records.identity import (
    Changes,
    compare_facts,
    identify,
    list_outcomes,
    list_with_weights,
)
from harness.records.record import Record
from harness.records.run_file import describe_mistakes
from harness.records.values import find_spec
from harness.statistics import nights

SCHEMA = 2
FOLDER = Path("results/thresholds")
_NAME = re.compile(r"[\w][\w .-]*")  # nothing that leads out of the folder
_LONGEST_FACT = 40  # characters; a longer fact is stored as its hash


class _Frozen(BaseModel):
    """Nothing is coerced and no number is NaN or infinite: an infinite margin would pass all."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Threshold(_Frozen):
    """One blessed number.

    ``spread`` is the standard deviation of one sample: of the logarithms of a night's processes for
    a speed, of ``n`` A/A runs in the value's unit otherwise; None where nothing shows it. ``n``
    counts processes for a speed, whose values in each of the runs are ``runs``. ``margin`` is in
    the value's unit. ``row`` says which items were right, packed (`pack_row`), so that a share of
    right items is judged item by item.
    """

    value: int | float
    unit: str
    better: Literal["lower", "higher"]
    margin: float = Field(ge=0)
    spread: float | None = Field(ge=0)
    n: int = Field(ge=1)
    runs: list[float] = []
    row: str | None = None

    @model_validator(mode="after")
    def _check_spread(self) -> "Threshold":
        if self.spread is not None and self.n < 2:
            raise ValueError(f"a spread is of 2 samples or more, found n = {self.n}")
        return self


class Blessed(_Frozen):
    """The thresholds of one measurement of one cell, and all that they depend on.

    ``runs`` are all that it was blessed from, ``utcs`` when they began, ``run`` is the last given.
    ``items`` is the hash of the items' outcomes, ``lists`` are numbers of items and chunks, packed
    (`pack_list`), by which values are compared.
    """

    commit: str
    run: str
    runs: list[str] = []
    utcs: list[str] = []
    when: str
    reason: str
    items: str | None
    lists: dict[str, str] = {}
    facts: dict[str, Any]
    values: dict[str, Threshold]

    def has_lists(self, spec: ValueSpec | None) -> bool:
        """Whether a value can be compared item by item or chunk by chunk."""
        return spec is not None and bool(spec.lists) and self.lists.keys() >= {*spec.lists}

    @model_validator(mode="after")
    def _check_utcs(self) -> "Blessed":
        nights.find_nights(self.utcs)
        return self


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

    @cached_property
    def nights(self) -> nights.Nights:
        """What all blessed speeds say of how they vary."""
        return nights.learn_nights(
            [
                as_speed(one, blessed)
                for measurement, blessed, name, one in self.list_values()
                if (spec := find_spec(measurement, name)) and spec.sampled == "processes"
                if one.value > 0
            ]
        )

    @cached_property
    def families(self) -> tuple[int, int]:
        """How many blessed values could fail by chance: others than speeds, and speeds."""
        others = speeds = 0
        for measurement, blessed, name, one in self.list_values():
            spec = find_spec(measurement, name)
            timed = spec is not None and spec.sampled == "processes"
            speeds += timed
            by_item = one.row is not None or blessed.has_lists(spec)
            others += not timed and (by_item or bool(one.spread))
        return others, speeds

    def list_values(self) -> Iterator[tuple[str, Blessed, str, Threshold]]:
        """Every threshold, with its measurement and its name."""
        for measurements in self.cells.values():
            for measurement, blessed in measurements.items():
                for name, one in blessed.values.items():
                    yield measurement, blessed, name, one


def as_speed(threshold: Threshold, blessed: Blessed) -> nights.Blessed:
    """A speed's threshold, as logarithms; of one night where it is not known when its runs were."""
    logs: dict[str, list[float]] = {}
    if len(blessed.utcs) == len(threshold.runs):
        for night, value in zip(nights.find_nights(blessed.utcs), threshold.runs):
            if value > 0:
                logs.setdefault(night, []).append(math.log(value))
    by_night = {night: fmean(found) for night, found in logs.items()}
    return nights.Blessed(math.log(threshold.value), threshold.spread, threshold.n, by_night)


def path_of(root: Path, suite: str, device: str) -> Path:
    """Where the thresholds of a suite are; ``device`` is the slug in a run file's name."""
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
    if found not in (1, SCHEMA):
        raise InputError(f"{where}: expected thresholds of schema {SCHEMA}, found {found!r}")
    try:
        return Thresholds.model_validate(_renew(data) if found == 1 else data)
    except ValidationError as error:
        raise InputError(f"{where}: {describe_mistakes(error)}") from None


def _renew(data: dict[str, Any]) -> dict[str, Any]:
    """A file of schema 1, whose margins were widened to three spreads: they are what is declared.

    How many runs a speed is from was not kept, so its nights are unknown. The reference's facts
    were hashed together with its weights, so whether the question differs is unknown too.
    """
    for measurements in data.get("cells", {}).values():
        for measurement, blessed in measurements.items():
            blessed.get("facts", {}).pop("protocol.reference", None)
            for name, one in blessed.get("values", {}).items():
                spec = find_spec(measurement, name)
                if spec is not None and spec.margin is not None:
                    one["margin"] = spec.margin.of(one["value"])
    return {**data, "schema": SCHEMA}


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A merge may leave two entries of one cell, of which JSON would take the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def read_thresholds(path: Path) -> Thresholds:
    """Raises `InputError` as `parse_thresholds` does, and where there is no such file."""
    try:
        return parse_thresholds(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def write_thresholds(thresholds: Thresholds, path: Path) -> None:
    """Atomically, keys in a stable order, so that a diff shows what was blessed anew."""
    data = thresholds.model_dump(mode="json", by_alias=True)
    data["cells"] = dict(sorted(data["cells"].items()))
    for cell, measurements in data["cells"].items():
        data["cells"][cell] = dict(sorted(measurements.items()))
        for blessed in measurements.values():
            blessed |= {key: dict(sorted(blessed[key].items())) for key in ("facts", "values")}
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def facts_of(environment: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """What a threshold depends on, as stored: only what is known, long facts as hashes."""
    facts = identify(environment, record)
    return {name: _shorten(value) for name, value in facts.items() if value is not None}


def _shorten(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return value if len(text) <= _LONGEST_FACT else f"sha256:{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_items(record: Record) -> str | None:
    """One hash of every item's outcome; None for a record without items."""
    items = list_outcomes(record)
    return _hash(json.dumps(items, sort_keys=True, ensure_ascii=False)) if items else None


def find_row(record: Record, spec: ValueSpec) -> str | None:
    """The items (1 right, 0 wrong, - not scored) that the value is the mean of, or None."""
    row = record.items.get(spec.row) if spec.row is not None else None
    return row if isinstance(row, str) else None


def pack_row(row: str) -> str:
    """A row as a line of text, at most an eighth of its length."""
    digits = row.translate(str.maketrans("01-", "012"))
    return base64.b85encode(zlib.compress(digits.encode(), 9)).decode()


def unpack_row(packed: str) -> str:
    """Raises ValueError for what `pack_row` did not make."""
    try:
        digits = zlib.decompress(base64.b85decode(packed)).decode()
    except zlib.error as error:
        raise ValueError(f"a row of items cannot be read: {error}") from None
    return digits.translate(str.maketrans("012", "01-"))


def pack_list(numbers: Sequence[float | None]) -> str:
    """Numbers as a line of text, each in single precision: 5 characters or fewer."""
    known = array("f", [math.nan if one is None else one for one in numbers])
    return base64.b85encode(zlib.compress(known.tobytes(), 9)).decode()


def pack_lists(record: Record, values: Iterable[str]) -> dict[str, str]:
    """What the ``values`` of a record are compared by."""
    specs = [spec for name in values if (spec := find_spec(record.measurement, name))]
    names = dict.fromkeys(name for spec in specs for name in spec.lists if name in record.items)
    return {name: pack_list(record.items[name]) for name in names}


def unpack_list(packed: str) -> list[float | None]:
    """Raises ValueError for what `pack_list` did not make."""
    try:
        known = array("f", zlib.decompress(base64.b85decode(packed)))
    except zlib.error as error:
        raise ValueError(f"a list of numbers cannot be read: {error}") from None
    return [None if math.isnan(one) else one for one in known]


def find_changes(
    blessed: Blessed,
    environment: Mapping[str, Any],
    record: Record,
    allow: Collection[str] = (),
) -> Changes:
    """The facts that are not what they were when blessed; ``allow`` names some that may differ."""
    unknown = {name for name in list_with_weights(record) if name not in blessed.facts}  # schema 1
    facts = {n: value for n, value in facts_of(environment, record).items() if n not in unknown}
    return compare_facts(blessed.facts, facts, allow)


def list_unmeasured(thresholds: Thresholds, records: Iterable[Record]) -> list[str]:
    """``cell measurement`` of what was blessed and has no record here."""
    measured = {(record.cell.id, record.measurement) for record in records}
    return [
        f"{cell} {name}"
        for cell, measurements in thresholds.cells.items()
        for name in measurements
        if (cell, name) not in measured
    ]
