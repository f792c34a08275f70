"""What the matrix has no room for, with ``pytest -v``: latencies, loading, bytes, what fits where.

A metric module lists it as ``DETAILS``. Values that have a qualifier give a row per cell and
qualifier, others a row per cell; a column without a single number is left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.catalog import load_measurement
from harness.descriptions import Column
from harness.records.record import Record
from harness.records.values import base_name, qualifier, qualify
from harness.suite.models import Suite

_UNBOUNDED = 10_000
Row = tuple[str, Record, str]  # its name, the record, the qualifier or ""


def render_details(suite: Suite, records: Iterable[Record]) -> str:
    """The tables of every measurement that has details, as wide as they are; perhaps empty."""
    records = [record for record in records if record.usable and not record.noise]
    tables = []
    for measurement in suite.measurements:
        module = load_measurement(measurement.name)
        columns: Sequence[Column] = module.details
        own = [record for record in records if record.measurement == measurement.name]
        per = {c for c in columns if "[" not in c.value and module.values[c.value].per}
        rows = [(record.cell.id, record, "") for record in own]
        shapes = [
            (f"{record.cell.id} b{of}", record, of)
            for record in own
            for of in dict.fromkeys(qualifier(n) for n in record.values if "[" in n)
        ]
        tables += [
            _render(measurement.name, [c for c in columns if c not in per], rows),
            _render(measurement.name, [c for c in columns if c in per], shapes),
        ]
    return "\n\n".join(table for table in tables if table)


def _render(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> str:
    shown = [c for c in columns if any(_find(c, row) is not None for row in rows)]
    if not shown:
        return ""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(title, no_wrap=True, vertical="bottom")
    for column in shown:
        table.add_column(column.title, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        numbers = [(_find(column, row), column) for column in shown]
        cells = ["—" if n is None else format(n / c.scale, c.format) for n, c in numbers]
        table.add_row(Text(row[0]), *cells)
    console = Console(file=io.StringIO(), width=_UNBOUNDED, no_color=True, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _find(column: Column, row: Row) -> float | None:
    _, record, of = row
    found = record.find(qualify(base_name(column.value), of) if of else column.value)
    return None if found is None else found.value
