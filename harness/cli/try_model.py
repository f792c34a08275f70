"""`harness try`: measure a model without a suite, and keep the suite that was used."""

from datetime import datetime, timezone
from pathlib import Path

import click

from harness.cli.new_suite import draft_suite, write_suite
from harness.cli.output import print_report
from harness.cli.plan import make_model
from harness.cli.run import run_pytest
from harness.report.plan import dump_suite_plan, show_suite_plan
from harness.run.plan_suite import plan_suite
from harness.suite.read import load_suite


@click.command(name="try")
@click.argument("model")
@click.option("--text", type=click.Path(path_type=Path), help="a file to predict; default: the hub")
@click.option("--precision", "names", multiple=True, help="such as int8,nf4; default: all smaller")
@click.option("--revision", help="commit, tag or branch of a hub model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="where the suite is written")
@click.option("--plan-only", is_flag=True, help="write the suite and stop before measuring")
def command(
    model: str,
    text: Path | None,
    names: tuple[str, ...],
    revision: str | None,
    output: Path | None,
    plan_only: bool,
) -> int:
    """Measure MODEL at several precisions, with a suite that is written for it.

    Shows a plan first, then what `pytest` shows of a suite: a first look, with short measurements.
    The suite goes to results/try/.
    """
    spec = make_model(model, revision)
    started = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    file = output or Path("results/try") / f"{spec.name}-{started}.yaml"
    wanted = [name for given in names for name in given.split(",")]
    write_suite("try", draft_suite(spec, text, wanted, file), file)
    plan = plan_suite(load_suite(file), Path.cwd(), Path("results/runs"), "auto")
    print_report([show_suite_plan(plan)], dump_suite_plan(plan), "text")
    click.echo(f"\nthe suite: {file}")
    if plan.mistakes or plan_only:
        return 1 if plan.mistakes else 0
    return run_pytest((str(file),))
