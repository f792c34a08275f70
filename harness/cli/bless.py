"""`harness bless`: make thresholds of run files, and say what changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import click

from harness.errors import InputError
from harness.records.run_file import Run
from harness.records.run_sources import find_runs, name_device
from harness.verdicts.bless import Result, bless
from harness.verdicts.thresholds import path_of, read_thresholds, write_thresholds


def run_bless(runs: Sequence[str], reason: str, root: Path) -> int:
    """The command. Raises `InputError` for what cannot be blessed."""
    found = [one.run for name in runs for one in find_runs(name, root)]
    path, result = bless_runs(found, reason, root)
    for line in report(path, result):
        click.echo(line)
    return 0


def bless_runs(runs: Sequence[Run], reason: str, root: Path) -> tuple[Path, Result]:
    """Write the thresholds of these runs under ``root``; earlier ones of other cells stay."""
    if not runs:
        raise InputError("no run to bless")
    devices = sorted({slug_of(run) for run in runs})
    if len(devices) > 1:
        raise InputError(f"the runs are of different devices: {', '.join(devices)}")
    [device] = devices
    path = path_of(root, str(runs[-1].suite.get("name")), device)
    previous = read_thresholds(path) if path.exists() else None
    when = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    result = bless(runs, device, previous, reason, when)
    write_thresholds(result.thresholds, path)
    return path, result


def report(path: Path, result: Result) -> list[str]:
    """The lines that a person reads after a bless."""
    left = [f"not blessed: {line}" for line in result.left_out]
    changes = list(result.changes) or ["no value changed"]
    return [*changes, *left, f"thresholds: {path}: review and commit it"]


def slug_of(run: Run) -> str:
    """The device's name as run files have it."""
    return name_device(run.run.device, run.environment)
