"""The matrix in the terminal, and what a reader must know beside its numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.catalog import load_measurement
from harness.records.record import Record
from harness.records.values import base_name
from harness.report.table import Matrix, Mood, ShownColumn, make_matrix, split_columns
from harness.suite.models import Suite
from harness.verdicts.pairing import is_noise

_STYLES: dict[Mood, str] = {
    "plain": "",
    "faint": "dim",
    "good": "green",
    "doubtful": "yellow",
    "bad": "bold red",
}


def render_matrix(
    suite: Suite, records: Sequence[Record], width: int = 120, color: bool = False
) -> str:
    """One table, or several under each other where ``width`` characters cannot hold all columns."""
    matrix = make_matrix(suite, records)
    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False
    )
    unbounded = Console(file=io.StringIO(), width=10_000)

    def fits(columns: Sequence[ShownColumn]) -> bool:
        return unbounded.measure(_draw(matrix, columns)).maximum <= width

    for number, columns in enumerate(split_columns(matrix, fits)):
        if number:
            console.print()
        console.print(_draw(matrix, columns))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().rstrip("\n")


def list_notes(records: Iterable[Record]) -> list[str]:
    """What a reader must know beside the numbers: `list_remarks`, then undecided limits."""
    records = list(records)
    undecided = [
        f"undecided: {verdict.text}"
        for record in records
        for verdict in record.verdicts
        if verdict.verdict == "INCONCLUSIVE"
    ]
    return [*list_remarks(records), *dict.fromkeys(undecided)]


def list_remarks(records: Iterable[Record]) -> list[str]:
    """Noise, flags, skips and a metric's own remarks, each once with the places it is about."""
    notes: dict[str, list[str]] = {}
    records = list(records)
    if any(_has_noise(record) for record in records):
        notes["~ noise: no farther from the reference than the reference from itself"] = []
    for record in records:
        where = f"{record.cell.id} {record.measurement}"
        if record.validity.status in ("flagged", "skipped"):
            for reason in record.validity.reasons:
                mark = "* " if record.validity.status == "flagged" else ""
                notes.setdefault(f"{mark}{record.validity.status}: {reason}", []).append(where)
        if record.validity.status == "failed" and record.values:
            notes.setdefault("! finished before the measurement failed", []).append(where)
        remarks = load_measurement(record.measurement).remarks
        if record.usable:
            for remark in remarks(record):
                notes.setdefault(remark, []).append(where)
    lines = []
    for note, places in notes.items():
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        lines.append(f"{note} ({', '.join(places[:3])}{more})" if places else note)
    return lines


def _has_noise(record: Record) -> bool:
    """Whether a value that the matrix shows is no larger than the noise."""
    module = load_measurement(record.measurement)
    shown = {column.value for column in module.headline}
    return any(
        base_name(name) in shown and is_noise(value, module.values[base_name(name)])
        for name, value in {**record.values, **record.paired}.items()
    )


def _draw(matrix: Matrix, columns: Sequence[ShownColumn]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("cell", no_wrap=True)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.numbers else "left",
            no_wrap=True,
            vertical="bottom",
        )
    for row, name in enumerate(matrix.names):
        cells = [column.cells[row] for column in columns]
        table.add_row(Text(name), *(Text(c.text, style=_STYLES[c.mood]) for c in cells))
    return table
