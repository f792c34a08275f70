"""`harness recommend`: which precision to ship, from what a run measured."""

from pathlib import Path

import click

from harness.catalog import check_name, list_names, load_precision
from harness.cli.output import format_option, print_report
from harness.cli.sizes import SHARE, SIZE
from harness.errors import InputError
from harness.records.find_runs import find_runs
from harness.report.recommend import dump_recommendation, show_recommendation
from harness.verdicts.recommend import Demands, recommend


@click.command(name="recommend")
@click.argument("run")
@click.option("--vram", type=SIZE, help="the memory that it must fit in, such as 24GiB")
@click.option("--max-drop", type=SHARE, help="of accuracy, against the reference: 0.02 or 2%")
@click.option("--min-tokens-per-s", type=click.FloatRange(min=0, min_open=True), help="decoding")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="decoded")
@click.option("--model", help="where the run has several")
@click.option(
    "--card", help="T4, A10, A100 or H100: for rules of thumb, where nothing was measured"
)
@click.option(
    "--use",
    default="inference",
    show_default=True,
    type=click.Choice(["inference", "fine-tuning"]),
    help="likewise",
)
@click.option("--root", default=".", type=click.Path(path_type=Path), help="of the repository")
@format_option
def command(
    run: str,
    vram: int | None,
    max_drop: float | None,
    min_tokens_per_s: float | None,
    batch: int,
    model: str | None,
    card: str | None,
    use: str,
    root: Path,
    form: str,
) -> int:
    """Recommend the smallest precision of RUN whose evidence holds what is demanded.

    RUN is a run file, a folder (its newest run) or a git revision. Demands are judged by the bounds
    of what was measured, as a suite's limits are; what is undecided ends with what would decide it.

    \b
    Exit codes:
      0  one is recommended
      1  none holds every demand
      2  undecided
      4  wrong input
    """
    demands = Demands(vram, max_drop, min_tokens_per_s, batch)
    if not demands.about:
        raise InputError("say what you demand: --vram, --max-drop, --min-tokens-per-s")
    if card is not None:
        rules = (load_precision(name).rules_of_thumb for name in list_names("precisions"))
        check_name(
            "card", card, {key for own in rules for key in own} - {"inference", "fine-tuning"}
        )
    found = find_runs(run, root)
    known = list(dict.fromkeys(r.cell.model for one in found for r in one.run.records))
    if model is not None:
        check_name("model", model, known, f" in {run}")
    elif len(known) > 1:
        raise InputError(f"{run} has several models: choose with --model ({', '.join(known)})")
    name = model or known[0]
    runs = [one.run for one in found if any(r.cell.model == name for r in one.run.records)]
    if len(runs) > 1:
        names = ", ".join(one.name for one in found)
        raise InputError(f"{run} holds several runs of {name}: name one of {names}")
    answer = recommend(runs[0], name, demands)
    shown = answer, demands, runs[0].run.device_name or runs[0].run.device, card, use
    print_report([show_recommendation(*shown)], dump_recommendation(*shown), form)
    return 0 if answer.chosen else 2 if answer.open else 1
