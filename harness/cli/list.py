"""`harness list`: the names that a suite may use."""

import click

from harness import catalog

_KINDS = ("precisions", "metrics", "tasks")


@click.command(name="list")
@click.argument("what", metavar="|".join(_KINDS))
def command(what: str) -> None:
    """List the names that a suite may use."""
    kind = catalog.check_name("kind", what, _KINDS)
    load = catalog.load_precision if kind == "precisions" else catalog.load_measurement
    names = catalog.list_names(kind)
    width = max(map(len, names))
    for name in names:
        first = (load(name).help.strip().splitlines() or [""])[0]
        click.echo(f"{name:{width}}  {first.removeprefix(f'{name}:').strip()}")
