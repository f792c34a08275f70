"""`harness export`: a run as tables for pandas and spreadsheets."""

import csv
import io
from pathlib import Path
from typing import Any

import click

from harness.errors import InputError
from harness.machine.files import write_atomically
from harness.records.find_runs import find_runs
from harness.report.export import Row, list_items, list_values


@click.command(name="export")
@click.argument("run")
@click.option("--csv", "form", flag_value="csv", help="comma-separated, UTF-8")
@click.option("--parquet", "form", flag_value="parquet", help="keeps numbers as they are")
@click.option(
    "-o",
    "--output",
    default="export",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="folder to write to",
)
@click.option("--root", default=".", type=click.Path(path_type=Path), help="of the repository")
def command(run: str, form: str | None, output: Path, root: Path) -> None:
    """Write RUN as two tables: values (a row per value) and items (a row per question or chunk).

    RUN is a run file, a folder (the newest run of each suite and device) or a git revision; several
    runs go into the same tables. `pandas.read_csv("export/values.csv")` reads one.
    """
    if form is None:
        raise InputError("say in which form: --csv or --parquet")
    runs = [found.run for found in find_runs(run, root)]
    for name, list_rows in (("values", list_values), ("items", list_items)):
        rows = [row for one in runs for row in list_rows(one)]
        path = output / f"{name}.{form}"
        write_atomically(path, _as_csv(rows) if form == "csv" else _as_parquet(rows))
        click.echo(f"{path}: {len(rows):,} rows")


def _list_columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _list_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_parquet(rows: list[Row]) -> bytes:
    import pyarrow  # comes with datasets
    from pyarrow import parquet

    columns = {name: _align([row.get(name) for row in rows]) for name in _list_columns(rows)}
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def _align(column: list[Any]) -> list[Any]:
    """One type per column: all numbers as floats where some are, all as text where some are."""
    kinds = {type(value) for value in column if value is not None}
    if len(kinds) <= 1:
        return column
    kind: type = float if kinds == {int, float} else str
    return [None if value is None else kind(value) for value in column]
