"""`harness bless`: make thresholds of run files, and print what changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.records.run_sources import find_runs
from harness.verdicts.bless import bless_runs


def run_bless(runs: Sequence[str], reason: str, root: Path) -> int:
    """The command. Raises `InputError` for runs that cannot be blessed."""
    found = [one.run for name in runs for one in find_runs(name, root)]
    path, result = bless_runs(found, reason, root)
    for line in result.list_lines(str(path)):
        click.echo(line)
    return 0
