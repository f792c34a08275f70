"""`harness plan`: what a model or a suite will take, before anything is downloaded or loaded."""

from pathlib import Path

import click

from harness.catalog import check_name
from harness.cli.output import format_option, print_report
from harness.cli.sizes import SIZE
from harness.errors import InputError
from harness.machine.capacity import CARDS
from harness.report.plan import dump_plan, dump_suite_plan, show_plan, show_suite_plan
from harness.run.plan import ask_hub, list_precisions, plan_model
from harness.run.plan_suite import plan_suite
from harness.suite.models import ModelSpec
from harness.suite.read import load_suite

_USUAL_CONTEXT = 4096


@click.command(name="plan")
@click.argument("model", metavar="MODEL|SUITE.yaml")
@click.option("--vram", type=SIZE, help="of your card, such as 24GiB; default: common cards")
@click.option("--context", type=click.IntRange(min=1), help="tokens; default: 4096, or fewer")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--precision", "names", multiple=True, help="default: all; repeatable")
@click.option(
    "--device",
    default="cuda",
    show_default=True,
    type=click.Choice(["cuda", "cpu"]),
    help="On a CPU quantised models keep everything else in float32.",
)
@click.option("--revision", help="commit, tag or branch of a hub model")
@click.option("--trust-remote-code", is_flag=True, help="run Python code that comes with the model")
@click.option(
    "--results",
    default="results/runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="earlier runs, from which the times of a suite are taken",
)
@format_option
def command(
    model: str,
    vram: int | None,
    context: int | None,
    batch: int,
    names: tuple[str, ...],
    device: str,
    revision: str | None,
    trust_remote_code: bool,
    results: Path,
    form: str,
) -> int:
    """Show what a model takes at each precision, and on which cards it fits; or plan a suite.

    MODEL is a hub id, a folder (a config.json alone will do) or builtin:tiny-world. Only the config
    and the headers of the weight files are read. Bytes of weights are those that `footprint`
    measures.

    Of a SUITE.yaml the plan shows cells, downloads, bytes, time and the items that limits need, on
    this machine. Every mistake in it is named with its line, also those of data and models. Exits
    with 1 where there is one.
    """
    if model.endswith((".yaml", ".yml")):
        given = {"vram": vram, "context": context, "precision": names, "revision": revision}
        for name in (name for name, value in given.items() if value):
            raise InputError(
                f"--{name} is for a model; a suite is planned as it is, on this machine"
            )
        return _plan_suite(Path(model), results, form)
    spec = make_model(model, revision, trust_remote_code)
    precisions = list_precisions(device)
    known = [precision.name for precision in precisions]
    wanted = {check_name("precision", name, known) for given in names for name in given.split(",")}
    chosen = [each for each in precisions if not wanted or each.name in wanted]
    folder = Path.cwd()
    plan = plan_model(spec, folder, chosen, device, ask_hub([spec.source], folder))
    limit = next(iter(plan.sizes.values())).max_context
    if context is not None and limit is not None and context > limit:
        raise InputError(f"--context {context}: {spec.name} was made for {limit:,} tokens at most")
    tokens = context or min(_USUAL_CONTEXT, limit or _USUAL_CONTEXT)
    rooms = CARDS if vram is None else {_name_card(vram): vram}
    shown = show_plan(plan, rooms, tokens, batch)
    print_report([shown], dump_plan(plan, rooms, tokens, batch), form)
    return 0


def _plan_suite(path: Path, results: Path, form: str) -> int:
    """Whatever this machine is: its own device is asked."""
    plan = plan_suite(load_suite(path), Path.cwd(), results, "auto")
    print_report([show_suite_plan(plan)], dump_suite_plan(plan), form)
    return 1 if plan.mistakes else 0


def make_model(source: str, revision: str | None = None, trust: bool = False) -> ModelSpec:
    """A model by its source, named after its last part."""
    name = source.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "model"
    return ModelSpec(name=name, source=source, revision=revision, trust_remote_code=trust)


def _name_card(size: int) -> str:
    for unit, one in (("GiB", 1 << 30), ("GB", 10**9), ("MiB", 1 << 20), ("MB", 10**6)):
        if size % one == 0:
            return f"{size // one}{unit}"
    return f"{size / 1e9:.4g}GB"
