"""`harness history`: make series of the values in a folder of run files, and print them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli.names import check_name
from harness.errors import InputError
from harness.records.values import base_name
from harness.report.history import Group, History, dump_history, show_history
from harness.report.markdown import write_markdown
from harness.report.terminal import write_terminal
from harness.verdicts.history import Observation, Series, divide
from harness.verdicts.history_files import (
    Reading,
    RunSeen,
    SuiteOnDevice,
    Wanted,
    find_spec,
    read_folder,
)

_NAMED_FILES = 5


@click.command(name="history")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, help="such as perplexity.ppl; default: judged")
@click.option("--cell", "cells", multiple=True, help="such as tiny-world[nf4]; default: all")
@click.option("--suite", "suites", multiple=True, help="default: all")
@click.option("--last", type=click.IntRange(min=1), help="only so many runs of a suite and device")
@click.option("--format", "form", default="text", type=click.Choice(["text", "md", "json"]))
def command(
    folder: Path,
    metrics: Sequence[str],
    cells: Sequence[str],
    suites: Sequence[str],
    last: int | None,
    form: str,
) -> None:
    """Show how values changed over the run files in FOLDER, and with which commits.

    A single lucky or unlucky run is no change. Series without one are summed up, unless the metric
    is named.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of run files, found none of that name")
    wanted = Wanted(tuple(suites), tuple(cells), tuple(metrics))
    reading = read_folder(folder, wanted)
    for line in reading.unreadable[:_NAMED_FILES]:
        click.echo(f"warning: skipped {line}", err=True)
    if len(reading.unreadable) > _NAMED_FILES:
        more = len(reading.unreadable) - _NAMED_FILES
        click.echo(f"warning: skipped {more} more files that cannot be read", err=True)
    if not reading.known["suite"]:
        raise InputError(
            f"{folder}: no run file that can be read; found {len(reading.unreadable)} spoilt ones "
            f"and {reading.others} JSON files of another kind"
        )
    _check_names(wanted, reading)
    found = _summarise(str(folder), reading, last, bool(metrics))
    if form == "json":
        click.echo(dump_history(found))
    else:
        write = write_markdown if form == "md" else write_terminal
        click.echo(write(show_history(found)))


def _check_names(wanted: Wanted, reading: Reading) -> None:
    """Raises `InputError` for a name that no run file holds, with the closest that there is."""
    for what, names in (("suite", wanted.suites), ("cell", wanted.cells)):
        for name in names:
            check_name(what, name, reading.known[what], " in these run files")
    for name in wanted.metrics:
        metrics = reading.known["metric"]
        bases = {base_name(metric) for metric in metrics}
        if name not in metrics | bases:
            alike = {metric for metric in metrics if base_name(metric) == base_name(name)}
            check_name("metric", name, alike or bases, " in these run files")


def _summarise(folder: str, reading: Reading, last: int | None, named: bool) -> History:
    groups = []
    for place, by_id in sorted(reading.runs.items()):
        runs = sorted(by_id.values(), key=lambda run: (run.utc, run.id))
        runs = runs[-last:] if last else runs
        groups.append(_make_group(place, runs, reading))
    return History(folder, tuple(groups), dict(reading.left_out), reading.others, named)


def _make_group(place: SuiteOnDevice, runs: Sequence[RunSeen], reading: Reading) -> Group:
    since = runs[0].utc
    series = []
    for key, values in reading.values.items():
        found = _order(values.observations, since) if key.runs_of == place else []
        if not found:
            continue
        spec = find_spec(key.metric)
        series.append(
            Series(
                suite=place.suite,
                device=place.device,
                cell=key.cell,
                metric=key.metric,
                unit=values.unit,
                better=values.better,
                margin=spec.margin if spec else None,
                segments=divide(found, spec is not None and spec.sampled == "processes"),
            )
        )
    return Group(
        suite=place.suite,
        device=place.device,
        runs=len(runs),
        dirty=sum(run.dirty for run in runs),
        first=runs[0].utc,
        last=runs[-1].utc,
        series=tuple(series),
    )


def _order(observations: Sequence[Observation], since: str) -> list[Observation]:
    """Oldest first; a number that later runs took over from an earlier one counts once."""
    newest_first = sorted(observations, key=lambda one: (one.utc, one.run), reverse=True)
    first = {one.run: one for one in newest_first}
    return [one for one in reversed(first.values()) if one.utc >= since]
