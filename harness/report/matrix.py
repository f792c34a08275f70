"""The summary a person wants: a row per cell; quality, speed and memory beside the reference."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.catalog import load_measurement
from harness.judge import is_noise
from harness.options import Column
from harness.record import Record
from harness.suite import Suite
from harness.values import base_name, qualifier, qualify

_MARKS = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}


@dataclass(frozen=True)
class _Shown:
    """One column of the matrix: which value of which measurement, and how it reads."""

    measurement: str
    value: str
    title: str
    column: Column


def render_matrix(
    suite: Suite, records: Sequence[Record], width: int = 120, color: bool = False
) -> str:
    """One table, or several under each other where ``width`` characters cannot hold all columns."""
    blocks = [block for m in suite.measurements if (block := _block(m.name, records))]
    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False
    )
    unbounded = Console(file=io.StringIO(), width=10_000)

    def fits(columns: list[_Shown], verdicts: bool) -> bool:
        table = _make_table(suite, records, columns, verdicts)
        return unbounded.measure(table).maximum <= width

    tables: list[list[_Shown]] = [[]]
    for block in blocks:
        if tables[-1] and not fits(tables[-1] + block, verdicts=False):
            tables.append([])
        for column in block:
            if tables[-1] and not fits([*tables[-1], column], verdicts=False):
                tables.append([])
            tables[-1] = [*tables[-1], column]
    if tables[-1] and not fits(tables[-1], verdicts=True):
        tables.append([])
    for number, columns in enumerate(tables):
        if number:
            console.print()
        console.print(_make_table(suite, records, columns, verdicts=number == len(tables) - 1))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue().rstrip("\n")


def list_notes(records: Iterable[Record]) -> list[str]:
    """What a reader must know beside the numbers: flags, skips, remarks, undecided limits."""
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
        remarks = getattr(load_measurement(record.measurement), "remarks", None)
        if remarks is not None and record.usable:
            for remark in remarks(record):
                notes.setdefault(remark, []).append(where)
        for verdict in record.verdicts:
            if verdict.verdict == "INCONCLUSIVE":
                notes.setdefault(f"undecided: {verdict.text}", []).append("")
    lines = []
    for note, places in notes.items():
        named = [place for place in places if place]
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        lines.append(f"{note} ({', '.join(named[:3])}{more})" if named else note)
    return lines


def _has_noise(record: Record) -> bool:
    """Whether a value that the matrix shows is no larger than the noise."""
    module = load_measurement(record.measurement)
    shown = {column.value for column in module.HEADLINE}
    return any(
        base_name(name) in shown and is_noise(value, module.VALUES[base_name(name)])
        for name, value in {**record.values, **record.paired}.items()
    )


def _block(measurement: str, records: Sequence[Record]) -> list[_Shown]:
    """The columns of one measurement, per batch size where its values are."""
    own = [r for r in records if r.measurement == measurement]
    columns: Sequence[Column] = load_measurement(measurement).HEADLINE
    present = {name for r in own for name in (*r.values, *r.paired)}
    plain = [c for c in columns if c.value in present]
    if plain:
        return [_Shown(measurement, c.value, c.title, c) for c in plain]
    qualifiers = list(dict.fromkeys(qualifier(n) for r in own for n in r.values if "[" in n))
    return [
        _Shown(measurement, qualify(c.value, q), f"{c.title} b{q.replace('x', '×')}", c)
        for c in columns
        for q in qualifiers
        if qualify(c.value, q) in present
    ]


def _make_table(
    suite: Suite, records: Sequence[Record], columns: list[_Shown], verdicts: bool
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("cell", no_wrap=True)
    for shown in columns:
        table.add_column(shown.title, justify="right", no_wrap=True, vertical="bottom")
    if verdicts:
        table.add_column("limits", no_wrap=True)
    by_cell: dict[str, dict[str, Record]] = {}
    for record in records:
        row_name = f"{record.cell.id} again" if record.noise else record.cell.id
        by_cell.setdefault(row_name, {})[record.measurement] = record
    for cell, own in by_cell.items():
        row = [Text(cell), *(_show(own.get(s.measurement), s, suite) for s in columns)]
        if verdicts:
            row.append(_show_verdict(own.values(), suite))
        table.add_row(*row)
    return table


def _show(record: Record | None, shown: _Shown, suite: Suite) -> Text:
    if record is None:
        return Text("")
    if not record.usable:
        style = "yellow" if record.validity.status == "skipped" else "bold red"
        return Text(record.validity.status, style=style)
    found = record.find(shown.value)
    if found is None or found.value is None:
        spec = load_measurement(shown.measurement).VALUES[base_name(shown.value)]
        is_reference = record.cell.precision == suite.reference and not record.noise
        return Text("ref" if spec.paired and is_reference else "—", style="dim")
    mark = "*" if record.validity.status == "flagged" else ""
    column = shown.column
    text = format(found.value / column.scale, column.format)
    if column.stderr and found.stderr is not None:
        text += f" ±{format(found.stderr / column.scale, column.format.lstrip('+'))}"
    noise = is_noise(found, load_measurement(shown.measurement).VALUES[base_name(shown.value)])
    return Text(f"{'~' if noise else ''}{text}{mark}", style="dim" if noise else "")


def _show_verdict(records: Iterable[Record], suite: Suite) -> Text:
    records = list(records)
    outcomes = [v.verdict for r in records for v in r.verdicts]
    broken = [r.validity.status for r in records if r.validity.status in ("failed", "invalid")]
    if broken:
        return Text(broken[0].upper(), style="bold red")
    if outcomes:
        worst = next(o for o in ("FAIL", "INCONCLUSIVE", "PASS") if o in outcomes)
        return Text(f"{worst} {outcomes.count('PASS')}/{len(outcomes)}", style=_MARKS[worst])
    if records[0].noise:
        return Text("noise floor", style="dim")
    if records[0].cell.precision == suite.reference:
        return Text("reference", style="dim")
    return Text("")
