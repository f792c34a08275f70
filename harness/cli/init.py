"""`harness init`: a suite for your model, with limits that it can decide."""

import json
from pathlib import Path

import click

from harness.cli.new_suite import Draft, draft_suite, find_limit, write_suite
from harness.cli.plan import make_model
from harness.run.plan_suite import count_data
from harness.suite.data_source import BUILTIN

_LINE = 'pytest_plugins = ["harness.plugin"]'
_TASK = "mmlu"  # which most published comparisons report
_PER_SUBJECT = 50


@click.command(name="init")
@click.argument("model")
@click.option("--text", type=click.Path(path_type=Path), help="a file to predict; default: the hub")
@click.option("--precision", "names", multiple=True, help="default: all that are smaller")
@click.option("--revision", help="commit, tag or branch of a hub model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="default: suites/NAME.yaml")
def command(
    model: str, text: Path | None, names: tuple[str, ...], revision: str | None, output: Path | None
) -> None:
    """Plan MODEL on this machine, and write a commented suite for it.

    MODEL is a hub id, a folder or builtin:tiny-world. The reference is what its files hold; limits
    are those that the data has items enough to decide. Writes the line that pytest needs to a
    conftest.py where there is none.
    """
    spec = make_model(model, revision)
    file = output or Path("suites") / f"{spec.name}.yaml"
    wanted = [name for given in names for name in given.split(",")]
    draft = draft_suite(spec, text, wanted, file)
    task, limit = _choose_task(draft)
    write_suite("init", draft, file, task, limit)
    click.echo(f"wrote {file}: {', '.join(p.name for p in draft.precisions)}")
    _write_conftest(Path("conftest.py"))
    click.echo(f"next: harness plan {file}, then pytest {file}")


def _choose_task(draft: Draft) -> tuple[str, str]:
    """The task and a limit on what it loses; as comments where its data cannot be had now."""
    source = str(draft.plan.model.source)
    options: dict[str, object] = {"shots": 5, "limit": _PER_SUBJECT}
    if source.startswith(BUILTIN):
        options["data"] = f"{source}/quiz"
    given = ", ".join(f"{key}: {json.dumps(value)}" for key, value in options.items())
    items = count_data(_TASK, options, draft.machine.online)
    if items is None:
        return f"  # {_TASK}: {{{given}}}  # its data cannot be had now\n", ""
    limit = find_limit(items)
    text = f"  # {items:,} items are too few for a limit on {_TASK}.accuracy_drop."
    if limit is not None:
        text = f"  # {items:,} items pass it in 4 of 5 runs, where nothing is lost.\n"
        text += f"  - {{metric: {_TASK}.accuracy_drop, max: {limit}}}"
    return f"  {_TASK}: {{{given}}}\n", text


def _write_conftest(path: Path) -> None:
    if not path.exists():
        path.write_text(f"{_LINE}\n", encoding="utf-8")
        click.echo(f"wrote {path}, which loads the plugin")
    elif "harness.plugin" not in path.read_text(encoding="utf-8"):
        click.echo(f"add to {path}: {_LINE}")
