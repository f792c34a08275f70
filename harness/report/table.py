"""The matrix as plain cells: a row per model and precision, a column per headline value.

Knows what stands where and what it means to a reader; `harness.report.matrix` and
`harness.report.markdown` draw it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.catalog import load_measurement
from harness.descriptions import Column
from harness.records.record import Record
from harness.records.values import base_name, qualifier, qualify
from harness.suite.models import Suite
from harness.verdicts.pairing import is_noise

Mood = Literal["plain", "faint", "good", "doubtful", "bad"]
_MOODS: dict[str, Mood] = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "doubtful"}


@dataclass(frozen=True)
class Shown:
    """What one cell of the table says, and how it is meant."""

    text: str
    mood: Mood = "plain"


@dataclass(frozen=True)
class ShownColumn:
    """A heading and a cell for each row of the matrix; numbers stand to the right."""

    title: str
    cells: tuple[Shown, ...]
    numbers: bool = True


@dataclass(frozen=True)
class Matrix:
    """Row names, and columns in the blocks that belong together: measurements, then verdicts."""

    names: tuple[str, ...]
    blocks: tuple[tuple[ShownColumn, ...], ...]


def make_matrix(suite: Suite, records: Iterable[Record]) -> Matrix:
    """The matrix of all ``records``, which have their paired values and verdicts."""
    rows: dict[str, dict[str, Record]] = {}
    for record in records:
        name = f"{record.cell.id} again" if record.noise else record.cell.id
        rows.setdefault(name, {})[record.measurement] = record
    blocks = []
    for measurement in suite.measurements:
        own = [row.get(measurement.name) for row in rows.values()]
        blocks.append(
            tuple(
                ShownColumn(title, tuple(_show(record, value, column, suite) for record in own))
                for title, value, column in _list_columns(measurement.name, own)
            )
        )
    verdicts = tuple(_show_verdict(list(row.values()), suite) for row in rows.values())
    blocks.append((ShownColumn("verdicts", verdicts, numbers=False),))
    return Matrix(tuple(rows), tuple(block for block in blocks if block))


def split_columns(
    matrix: Matrix, fits: Callable[[Sequence[ShownColumn]], bool]
) -> list[list[ShownColumn]]:
    """The columns in as many tables as ``fits`` asks for; a block is parted only where it must."""
    tables: list[list[ShownColumn]] = [[]]
    for block in matrix.blocks:
        if tables[-1] and not fits([*tables[-1], *block]):
            tables.append([])
        for column in block:
            if tables[-1] and not fits([*tables[-1], column]):
                tables.append([])
            tables[-1].append(column)
    return tables


def _list_columns(
    measurement: str, records: Iterable[Record | None]
) -> list[tuple[str, str, Column]]:
    """Title, value and column of a measurement's headlines, per batch size where its values are."""
    own = [record for record in records if record is not None]
    columns: Sequence[Column] = load_measurement(measurement).headline
    present = {name for r in own for name in (*r.values, *r.paired)}
    plain = [c for c in columns if c.value in present]
    if plain:
        return [(c.title, c.value, c) for c in plain]
    qualifiers = list(dict.fromkeys(qualifier(n) for r in own for n in r.values if "[" in n))
    return [
        (f"{c.title} b{q.replace('x', '×')}", qualify(c.value, q), c)
        for c in columns
        for q in qualifiers
        if qualify(c.value, q) in present
    ]


def _show(record: Record | None, value: str, column: Column, suite: Suite) -> Shown:
    if record is None:
        return Shown("")
    found, status = record.find(value), record.validity.status
    # What was finished before a failure is sound, and stands; an invalid number is not shown.
    stands = status == "failed" and found is not None and found.value is not None
    if not record.usable and not stands:
        return Shown(status, "doubtful" if status == "skipped" else "bad")
    spec = load_measurement(record.measurement).values[base_name(value)]
    if found is None or found.value is None:
        is_reference = record.cell.precision == suite.reference and not record.noise
        return Shown("ref" if spec.paired and is_reference else "—", "faint")
    mark = {"flagged": "*", "failed": "!"}.get(status, "")
    text = format(found.value / column.scale, column.format)
    if column.stderr and found.stderr is not None:
        text += f" ±{format(found.stderr / column.scale, column.format.lstrip('+'))}"
    noise = is_noise(found, spec)
    mood: Mood = "bad" if stands else "faint" if noise else "plain"
    return Shown(f"{'~' if noise else ''}{text}{mark}", mood)


def _show_verdict(records: Sequence[Record], suite: Suite) -> Shown:
    outcomes = [v.verdict for r in records for v in r.verdicts]
    broken = [r.validity.status for r in records if r.validity.status in ("failed", "invalid")]
    if broken:
        return Shown(broken[0].upper(), "bad")
    if outcomes:
        worst = next(o for o in ("FAIL", "INCONCLUSIVE", "PASS") if o in outcomes)
        return Shown(f"{worst} {outcomes.count('PASS')}/{len(outcomes)}", _MOODS[worst])
    if records[0].noise:
        return Shown("noise floor", "faint")
    if records[0].cell.precision == suite.reference:
        return Shown("reference", "faint")
    return Shown("")
