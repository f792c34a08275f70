"""`harness history`: make series of the values in a folder of run files, and print them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from harness.catalog import check_name
from harness.cli.output import format_option, print_report
from harness.errors import InputError
from harness.records.values import base_name
from harness.report.history import dump_history, list_worse, show_history
from harness.verdicts.history_files import Wanted, read_history

_NAMED_FILES = 5
_FEWEST_DIGITS = 7  # of a commit's hash
_WHERE = " in these run files"


@click.command(name="history")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, help="such as perplexity.ppl; default: judged")
@click.option("--cell", "cells", multiple=True, help="such as tiny-world[nf4]; default: all")
@click.option("--suite", "suites", multiple=True, help="default: all")
@click.option("--last", type=click.IntRange(min=1), help="only so many runs of a suite and device")
@click.option(
    "--fail-on-shift",
    is_flag=True,
    help="exit with 1 where a value's newest level is worse than before, by more than its margin",
)
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    metavar="COMMIT",
    help="its changes were meant: every series begins anew with the first run of it; repeatable",
)
@format_option
def command(
    folder: Path,
    metrics: Sequence[str],
    cells: Sequence[str],
    suites: Sequence[str],
    last: int | None,
    fail_on_shift: bool,
    accepted: Sequence[str],
    form: str,
) -> int:
    """Show how values changed over the run files in FOLDER.

    Changes are named with their commits. A single lucky or unlucky run is no change. Series without
    one are summed up, unless the metric is named.

    Exits with 0, under --fail-on-shift with 1 where something got worse, with 4 for wrong input.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of run files, found none of that name")
    wanted = Wanted(tuple(suites), tuple(cells), tuple(metrics), tuple(accepted))
    found = read_history(folder, wanted, last)
    skipped = list(found.unreadable[:_NAMED_FILES])
    if len(found.unreadable) > _NAMED_FILES:
        skipped.append(f"{len(found.unreadable) - _NAMED_FILES} more files that cannot be read")
    for line in skipped:
        click.echo(f"warning: skipped {line}", err=True)
    if not found.known["suite"]:
        raise InputError(
            f"{folder}: no run file that can be read; found {len(found.unreadable)} damaged ones "
            f"and {found.others} JSON files of another kind"
        )
    for what, names in (("suite", suites), ("cell", cells)):
        for name in names:
            check_name(what, name, found.known[what], _WHERE)
    _check_accepted(accepted, found.known["commit"])
    known = found.known["metric"]
    bases = {base_name(metric) for metric in known}
    for name in metrics:
        if name not in known | bases:
            alike = {metric for metric in known if base_name(metric) == base_name(name)}
            check_name("metric", name, alike or bases, _WHERE)
    shown = show_history(found, named=bool(metrics))
    print_report([shown], {"folder": str(folder), **dump_history(found)}, form)
    return 1 if fail_on_shift and list_worse(found) else 0


def _check_accepted(accepted: Sequence[str], known: Iterable[str]) -> None:
    """Raises `InputError` for what begins no commit of these runs, or too many."""
    for commit in accepted:
        if len(commit) < _FEWEST_DIGITS or not any(sha.startswith(commit) for sha in known):
            raise InputError(
                f"--accept {commit}: expected {_FEWEST_DIGITS} or more digits of a commit that a "
                "run in this folder is of: name that of the first run after the change was made"
            )
