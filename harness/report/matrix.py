"""The matrix of a run: a row per model and precision, a column per headline value.

Also the tables of ``-v``, of the values that a description lists under ``details``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.catalog import load_measurement
from harness.descriptions import Column, Metric
from harness.records.record import Record
from harness.records.run_file import Run
from harness.records.values import base_name, qualifier, qualify
from harness.report.document import Cell, Style, Table, TableColumn
from harness.verdicts.pairing import is_noise

VERDICT_STYLES: dict[str, Style] = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "doubtful"}


def make_matrix(run: Run) -> Table:
    """Verdicts, then a block per measurement; a reference measured twice has a row ``again``."""
    rows: dict[str, dict[str, Record]] = {}
    title, name_cell = name_cells(run)
    for record in run.records:
        name = f"{name_cell(record)} again" if record.noise else name_cell(record)
        rows.setdefault(name, {})[record.measurement] = record
    reference = run.suite.get("reference")
    verdicts = tuple(_show_verdict(list(row.values()), reference) for row in rows.values())
    blocks: dict[str, tuple[TableColumn, ...]] = {
        "": (TableColumn("verdicts", verdicts, numbers=False),)
    }
    for measurement in list_measured(run):
        own = [row.get(measurement) for row in rows.values()]
        found = _list_columns(load_measurement(measurement), [one for one in own if one])
        columns = (
            TableColumn(title, tuple(_show(record, value, column, reference) for record in own))
            for title, value, column in found
        )
        blocks[measurement] = tuple(columns)
    names = TableColumn(title, tuple(map(Cell, rows)), numbers=False)
    shown = {name: block for name, block in blocks.items() if block}
    return Table((names,), tuple(shown.values()), tuple(shown))


def name_cells(run: Run) -> tuple[str, Callable[[Record], str]]:
    """The title and the names of rows: of a single model the precisions, which are shorter."""
    models = {record.cell.model for record in run.records}
    if len(models) == 1:
        return models.pop(), lambda record: record.cell.precision
    return "cell", lambda record: record.cell.id


def make_details(run: Run, wanted: Sequence[str] | None = None) -> Iterator[Table]:
    """Per measurement a table with a row per cell, and one with a row per cell and qualifier.

    Of all measurements, or those wanted. Columns without a single number are left out, and so are
    tables without a column.
    """
    for measurement in list_measured(run) if wanted is None else wanted:
        described = load_measurement(measurement)
        own = [r for r in run.records if r.measurement == measurement and r.usable and not r.noise]
        columns: dict[str, list[Column]] = {}
        for column in described.details:
            per = "" if "[" in column.value else described.values[column.value].per or ""
            columns.setdefault(per, []).append(column)
        for per, alike in columns.items():
            rows = [
                (record, of)
                for record in own
                for of in (_list_qualifiers([record]) if per else [""])
            ]
            titles = [measurement, *filter(None, [per])]
            yield from _tabulate(titles, alike, rows, name_cells(run)[1])


def list_measured(run: Run) -> list[str]:
    """The run's measurements in the suite's order."""
    asked = [entry["name"] for entry in run.suite.get("measurements", ())]
    made = {record.measurement: None for record in run.records}
    return [*(name for name in asked if name in made), *(n for n in made if n not in asked)]


def _tabulate(
    titles: Sequence[str],
    columns: Sequence[Column],
    rows: Sequence[tuple[Record, str]],
    name_cell: Callable[[Record], str],
) -> Iterator[Table]:
    """The columns that have a number, if there are any; a row is a record and a qualifier or ""."""

    def show(column: Column, record: Record, of: str) -> Cell:
        found = record.find(qualify(base_name(column.value), of) if of else column.value)
        return Cell("—" if found is None else format_number(found.value, column))

    made = [TableColumn(c.title, tuple(show(c, *row) for row in rows)) for c in columns]
    shown = tuple(column for column in made if any(cell.text != "—" for cell in column.cells))
    names = tuple(Cell(name_cell(record)) for record, _ in rows)
    qualifiers = tuple(Cell(of.replace("x", "×")) for _, of in rows)
    keys = (TableColumn(titles[0], names, numbers=False), TableColumn(titles[-1], qualifiers))
    if shown:
        yield Table(keys[: len(titles)], (shown,))


def _list_columns(described: Metric, own: Sequence[Record]) -> list[tuple[str, str, Column]]:
    """Title, value and column of each headline; one per qualifier where a value has any."""
    present = {name for r in own for name in (*r.values, *r.paired)}
    plain = [c for c in described.headline if c.value in present]
    if plain:
        return [(c.title, c.value, c) for c in plain]
    return [
        (c.title.format(of.replace("x", "×").replace(" ", "\n")), qualify(c.value, of), c)
        for c in described.headline
        for of in _list_qualifiers(own)
        if qualify(c.value, of) in present
    ]


def _list_qualifiers(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(qualifier(n) for r in records for n in r.values if "[" in n))


def format_number(number: float | None, column: Column) -> str:
    """The number as its column shows it."""
    return "—" if number is None else format(number / column.scale, column.format)


def _show(record: Record | None, value: str, column: Column, reference: str | None) -> Cell:
    if record is None:
        return Cell("")
    found, status = record.find(value), record.validity.status
    # What was finished before a failure is sound and is shown; an invalid number is not.
    is_part = status == "failed" and found is not None and found.value is not None
    if not record.usable and not is_part:
        return Cell(status, "doubtful" if status == "skipped" else "bad")
    spec = load_measurement(record.measurement).values[base_name(value)]
    if found is None or found.value is None:
        is_reference = record.cell.precision == reference and not record.noise
        return Cell("ref" if spec.paired and is_reference else "—", "faint")
    mark = {"flagged": "*", "failed": "!"}.get(status, "*" if found.doubt else "")
    text = format_number(found.value, column)
    if column.stderr and found.stderr is not None:
        text += f" ±{format_number(found.stderr, column).lstrip('+')}"
    noise = is_noise(found, spec)
    style: Style = "bad" if is_part else "faint" if noise else "plain"
    return Cell(f"{'~' if noise else ''}{text}{mark}", style)


def _show_verdict(records: Sequence[Record], reference: str | None) -> Cell:
    outcomes = [v.verdict for r in records for v in r.verdicts]
    broken = [r.validity.status for r in records if r.validity.status in ("failed", "invalid")]
    if broken:
        return Cell(broken[0].upper(), "bad")
    if outcomes:
        worst = next(o for o in ("FAIL", "INCONCLUSIVE", "PASS") if o in outcomes)
        return Cell(f"{worst} {outcomes.count('PASS')}/{len(outcomes)}", VERDICT_STYLES[worst])
    if records[0].noise:
        return Cell("noise floor", "faint")
    return Cell("reference", "faint") if records[0].cell.precision == reference else Cell("")
