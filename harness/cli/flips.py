"""`harness flips`: which questions a precision lost against the reference, within one run."""

from collections.abc import Sequence
from pathlib import Path

import click

from harness.catalog import check_name
from harness.cli.output import format_option, print_report
from harness.errors import InputError
from harness.records.find_runs import Found, find_runs
from harness.report.document import Document, Lines
from harness.report.ledger import LedgerPage, dump_ledger, open_ledger, show_ledger
from harness.verdicts.flips import list_pairs


@click.command(name="flips")
@click.argument("run")
@click.option("--cell", "cells", multiple=True, help="such as tiny-world[nf4]; default: all")
@click.option("--measure", "measurements", multiple=True, help="such as mmlu; default: every task")
@click.option(
    "--items",
    default=5,
    show_default=True,
    type=click.IntRange(min=0),
    help="so many questions of each, those lost most clearly first",
)
@click.option("--root", default=".", type=click.Path(path_type=Path), help="of the repository")
@format_option
def command(
    run: str, cells: Sequence[str], measurements: Sequence[str], items: int, root: Path, form: str
) -> None:
    """Show which questions each precision of RUN lost against the reference.

    RUN is a run file, a folder (its newest runs) or a git revision. A question is lost where the
    reference is right and the precision is wrong; ties, which the batch size alone can flip, are
    shown apart.
    """
    shown, data = [], []
    for found in find_runs(run, root):
        pages = _open_pages(found, cells, measurements)
        parts = [show_ledger(page, items) for page in pages]
        shown.append(Document("", (Lines((f"run: {found.label}",)), *parts)))
        data.append({"run": found.name, "flips": [dump_ledger(page, items) for page in pages]})
    print_report(shown, data, form)


def _open_pages(
    found: Found, cells: Sequence[str], measurements: Sequence[str]
) -> list[LedgerPage]:
    """The ledgers asked for; raises `InputError` for unknown names, and where there is none."""
    pages: dict[tuple[str, str], LedgerPage] = {}
    for reference, record in list_pairs(found.run):
        sides = reference.cell.precision, record.cell.precision
        page = open_ledger(reference, record, found.read_beside, found.read_beside, sides)
        if page is not None:
            pages[record.cell.id, record.measurement] = page
    if not pages:
        raise InputError(f"{found.name}: no task was compared with a reference in this run")
    for what, names, place in (("cell", cells, 0), ("task", measurements, 1)):
        for name in names:
            check_name(what, name, {key[place] for key in pages}, f" in {found.name}")
    return [
        page
        for (cell, measurement), page in pages.items()
        if (not cells or cell in cells) and (not measurements or measurement in measurements)
    ]
