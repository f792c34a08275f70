"""`harness report`: one page of one or several runs."""

from collections.abc import Sequence
from pathlib import Path

import click

from harness.errors import InputError
from harness.machine.files import write_atomically
from harness.records.find_runs import Found, find_all_runs, name_device
from harness.report.drawing import check_installed
from harness.report.html import write_html
from harness.report.page import make_page
from harness.verdicts.history_files import group_runs


@click.command(name="report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file to write",
)
@click.option("--root", default=".", type=click.Path(path_type=Path), help="of the repository")
def command(runs: Sequence[str], output: Path, root: Path) -> None:
    """Write a page about RUN: which precision, and everything that the answer rests on.

    RUN is a run file, a folder of them or a git revision. The newest run of each suite and device
    is shown in full; where there are earlier ones, its values are shown over time. The page is a
    single HTML file that needs no network; it needs matplotlib.
    """
    check_installed()
    if not output.absolute().parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist: make it first")
    found = [one for argument in runs for one in find_all_runs(argument, root)]
    newest: dict[tuple[str, str], Found] = {}
    for one in sorted(found, key=lambda one: one.run.run.utc):
        newest[str(one.run.suite.get("name")), name_device(one.run)] = one
    history = group_runs(one.run for one in found) if len(found) > len(newest) else ()
    write_atomically(output, write_html(make_page(list(newest.values()), history)))
    click.echo(f"report: {output}")
