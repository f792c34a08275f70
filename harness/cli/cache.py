"""`harness cache`: what the harness keeps, and how to remove it."""

from collections.abc import Sequence

import click

from harness.catalog import check_name
from harness.machine import cache
from harness.machine.files import cache_folder


@click.group(name="cache", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Show what the harness keeps, and how much room it takes.

    References are records that spare measuring the reference again, distributions are a reference's
    probabilities at every token of a text, questions are the items of tasks, for a reader, casts
    say what float16 does to a model's weights. All of it is made again when it is needed.
    """
    if context.invoked_subcommand is not None:
        return
    entries = cache.list_entries()
    click.echo(f"{cache_folder()}")
    rows = {kind: [entry for entry in entries if entry.kind == kind] for kind in cache.KINDS}
    for name, own in {**rows, "total": entries}.items():
        click.echo(f"  {name:13}  {len(own):5}  {_add_up(own):>9}")
    limit = cache.format_bytes(cache.limit_bytes())
    click.echo(f"limit {limit} ({cache.LIMIT_VARIABLE}), the longest unused goes first")


@command.command(name="clear")
@click.argument("kind", required=False)
def clear_kind(kind: str | None) -> None:
    """Remove everything kept, or one KIND: references, distributions, questions or casts."""
    removed, written = cache.clear(
        cache.KINDS if kind is None else (check_name("kind", kind, cache.KINDS),)
    )
    click.echo(f"removed {_count(removed)}")
    if written:
        click.echo(f"kept {_count(written)}: another run is writing")


def _count(entries: Sequence[cache.Entry]) -> str:
    noun = "entry" if len(entries) == 1 else "entries"
    return f"{len(entries)} {noun}, {_add_up(entries)}"


def _add_up(entries: Sequence[cache.Entry]) -> str:
    return cache.format_bytes(sum(entry.bytes for entry in entries))
