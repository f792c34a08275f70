"""`harness bless`: make thresholds of run files, and print what changes."""

from collections.abc import Sequence
from pathlib import Path

import click

from harness.records.find_runs import find_runs
from harness.verdicts.bless import bless_runs


@click.command(name="bless")
@click.argument("runs", nargs=-1, required=True)
@click.option("--reason", required=True, help="why these numbers are the new ones")
@click.option("--root", default=".", type=click.Path(path_type=Path), help="where results/ lies")
def command(runs: Sequence[str], reason: str, root: Path) -> None:
    """Make thresholds of RUNS, which later runs are judged by.

    Thresholds hold for a suite on a device. Runs of one commit on three nights or more show how
    much speeds differ by themselves; runs of one night do not.
    """
    found = [one.run for name in runs for one in find_runs(name, root)]
    path, result = bless_runs(found, reason, root)
    for line in result.list_lines(str(path)):
        click.echo(line)
