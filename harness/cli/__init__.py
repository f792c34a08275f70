"""The ``harness`` command: what can be done without a suite, and without torch.

Exits with 4 for wrong input. Each command imports what it needs: ``--help`` needs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import __version__
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.machine.cache import Entry

BAD_INPUT = 4
_LISTED = ("precisions", "metrics", "tasks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        status = harness.main(arguments, prog_name="harness", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        return BAD_INPUT
    except click.Abort:
        click.echo("Aborted.", err=True)
        return 130
    return status if isinstance(status, int) else 0


@click.group()
@click.version_option(__version__, prog_name="precision-harness")
def harness() -> None:
    """Measure what each precision of a language model costs and gains.

    Suites are run by pytest: `pytest suites/`.
    """


@harness.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show what the harness keeps, and how much room it takes.

    References are records that spare measuring the reference again, distributions are a
    reference's distribution at every token of a text, questions are the items of tasks, for a
    reader. All of it is made again when it is needed.
    """
    if context.invoked_subcommand is None:
        _show_cache()


@cache.command()
@click.argument("kind", required=False)
def clear(kind: str | None) -> None:
    """Remove everything kept, or one KIND: references, distributions or questions."""
    from harness.machine.cache import KINDS
    from harness.machine.cache import clear as clear_cache

    kinds = KINDS if kind is None else (_one_of("kind", kind, KINDS),)
    removed, written = clear_cache(kinds)
    click.echo(f"removed {_count(removed)}")
    if written:
        click.echo(f"left {_count(written)}: another run is writing")


@harness.command(name="list")
@click.argument("what", metavar="|".join(_LISTED))
def list_known(what: str) -> None:
    """List the names that a suite may use."""
    from harness import catalog

    kind = _one_of("kind", what, _LISTED)
    names = [
        name
        for name in catalog.list_names(kind)
        if kind == "precisions" or name in catalog.list_measurements()
    ]
    width = max(map(len, names))
    load = catalog.load_precision if kind == "precisions" else catalog.load_measurement
    for name in names:
        click.echo(f"{name:{width}}  {_first_sentence(name, load(name).help)}")


@harness.command()
@click.argument("suite", type=click.Path(path_type=Path))
@click.option("--precision", "precisions", multiple=True, help="one for each side, or one for both")
@click.option("--python", "pythons", multiple=True, help="the interpreter of each side")
@click.option("--model", help="where the suite has several")
@click.option("--measure", "measurement", default="throughput", show_default=True)
@click.option("--pairs", default=6, show_default=True, type=click.IntRange(min=2))
@click.option("--device", default="auto", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="default: in results/ab/")
@click.option("--format", "form", default="text", type=click.Choice(["text", "json"]))
def ab(**given: Any) -> int:
    """Compare two precisions, or two Python environments, in pairs of fresh processes.

    Give --precision twice, or --precision once and --python twice. Exits with 1 where a side could
    not be measured.
    """
    from harness.cli.ab import run_ab

    return run_ab(**given)


@harness.command()
@click.argument("a")
@click.argument("b")
@click.option("--allow", multiple=True, metavar="FIELD", help="a field that may differ: flagged")
@click.option("--format", "form", default="text", type=click.Choice(["text", "md", "json"]))
@click.option("--on-inconclusive", default="warn", type=click.Choice(["warn", "fail"]))
@click.option(
    "--flips", default=0, type=click.IntRange(min=0), help="show so many items that B lost"
)
@click.option(
    "--root", default=".", type=click.Path(path_type=Path), help="the repository of revisions"
)
def compare(**given: Any) -> int:
    """Compare B with A, each a run file, a folder of them, or a git revision.

    Exits with 0 where nothing got worse, 1 where something did, 2 where something is open under
    --on-inconclusive fail, 3 where the runs are incomparable, 4 for wrong input.
    """
    from harness.cli.compare import run_compare

    return run_compare(**given)


@harness.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, help="such as perplexity.ppl; default: judged")
@click.option("--cell", "cells", multiple=True, help="such as tiny-world[nf4]; default: all")
@click.option("--suite", "suites", multiple=True, help="default: all")
@click.option("--last", type=click.IntRange(min=1), help="only so many runs of a suite and device")
@click.option("--format", "form", default="text", type=click.Choice(["text", "md", "json"]))
def history(**given: Any) -> int:
    """Show how values moved over the run files in FOLDER, and the commits where they shifted.

    A single lucky or unlucky night is no shift. Series without one are summed up, unless the
    metric is named.
    """
    from harness.cli.history import run_history

    return run_history(**given)


@harness.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--reason", required=True, help="why these numbers are the new ones")
@click.option("--root", default=".", type=click.Path(path_type=Path), help="where results/ lies")
def bless(**given: Any) -> int:
    """Make thresholds of RUNS: what later runs on this device are judged by.

    Several runs of one commit tell how much runs differ by themselves.
    """
    from harness.cli.bless import run_bless

    return run_bless(**given)


def _show_cache() -> None:
    from harness.machine.cache import KINDS, LIMIT_VARIABLE, format_bytes, limit_bytes, list_entries
    from harness.machine.places import cache_folder

    entries, limit = list_entries(), limit_bytes()
    click.echo(f"{cache_folder()}")
    for kind in KINDS:
        own = [entry for entry in entries if entry.kind == kind]
        size = format_bytes(sum(entry.bytes for entry in own))
        click.echo(f"  {kind:13}  {len(own):5}  {size:>9}")
    total = format_bytes(sum(entry.bytes for entry in entries))
    click.echo(f"  {'total':13}  {len(entries):5}  {total:>9}")
    click.echo(f"limit {format_bytes(limit)} ({LIMIT_VARIABLE}), the longest unused goes first")


def _count(entries: Sequence[Entry]) -> str:
    from harness.machine.cache import format_bytes

    noun = "entry" if len(entries) == 1 else "entries"
    return f"{len(entries)} {noun}, {format_bytes(sum(entry.bytes for entry in entries))}"


def _one_of(what: str, given: str, known: Sequence[str]) -> str:
    """``given``; raises `InputError` with the closest name where it is none of the known."""
    if given not in known:
        from harness.catalog import describe_unknown

        raise InputError(describe_unknown(what, given, known))
    return given


def _first_sentence(name: str, text: str) -> str:
    """The first line of a description's help, which may start with its name."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line.removeprefix(f"{name}: ").removeprefix(f"{name}:")
