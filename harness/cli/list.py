"""`harness list`: the names that a suite may use, and the models that are on this machine."""

import click

from harness import catalog
from harness.builtin import list_models
from harness.machine.cache import format_bytes

_KINDS = ("precisions", "metrics", "tasks", "models")


@click.command(name="list")
@click.argument("what", metavar="|".join(_KINDS))
def command(what: str) -> None:
    """List the names that a suite may use.

    Models are the embedded one and those in the hub's cache; a suite may also name a folder or any
    model of the hub.
    """
    kind = catalog.check_name("kind", what, _KINDS)
    lines = _list_models() if kind == "models" else _list_descriptions(kind)
    width = max(map(len, lines))
    for name, text in lines.items():
        click.echo(f"{name:{width}}  {text}")


def _list_descriptions(kind: str) -> dict[str, str]:
    load = catalog.load_precision if kind == "precisions" else catalog.load_measurement
    found = {}
    for name in catalog.list_names(kind):
        first = (load(name).help.strip().splitlines() or [""])[0]
        found[name] = first.removeprefix(f"{name}:").strip()
    return found


def _list_models() -> dict[str, str]:
    from harness.suite.hub import list_cached  # imports huggingface_hub, which takes a while

    found = dict.fromkeys(list_models(), "embedded: works without network")
    for repo, size in list_cached().items():
        found[repo] = f"in the hub's cache, {format_bytes(size)}"
    return found
