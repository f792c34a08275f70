"""`harness ab`: check what was asked for, measure both sides, print the ratios."""

import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import click

from harness.catalog import check_name, load_measurement
from harness.cli.output import format_option, print_report
from harness.errors import InputError
from harness.report.ab import dump_ratios, show_ratios
from harness.run import ab
from harness.suite.models import Suite
from harness.suite.read import load_suite


@click.command(name="ab")
@click.argument("suite", type=click.Path(path_type=Path))
@click.option("--precision", "precisions", multiple=True, help="one for each side, or one for both")
@click.option("--python", "pythons", multiple=True, help="the interpreter of each side")
@click.option("--model", help="where the suite has several")
@click.option("--measure", "measurement", help="default: the suite's first that takes times")
@click.option("--pairs", default=6, show_default=True, type=click.IntRange(min=2))
@click.option("--device", default="auto", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="default: in results/ab/")
@format_option
def command(
    suite: Path,
    precisions: Sequence[str],
    pythons: Sequence[str],
    model: str | None,
    measurement: str | None,
    pairs: int,
    device: str,
    output: Path | None,
    form: str,
) -> int:
    """Compare two precisions or environments in fresh processes.

    Sides are measured in pairs. Give --precision twice, or --precision once and --python twice.
    Exits with 1 where a side could not be measured.
    """
    loaded = load_suite(suite)
    models = [one.name for one in loaded.models]
    if model is None and len(models) > 1:
        raise InputError(f"{suite} has several models: choose with --model ({', '.join(models)})")
    names = [one.name for one in loaded.measurements]
    measurement = measurement or next((n for n in names if load_measurement(n).timed), None)
    if measurement is None:
        raise InputError(f"{suite} takes no times: choose with --measure ({', '.join(names)})")
    check_name("measurement", measurement, names)
    if load_measurement(measurement).needs_reference:
        raise InputError(
            f"{measurement} compares with a reference itself; ab measures each side alone"
        )
    model = check_name("model", model or models[0], models)
    sides = _make_sides(loaded, precisions, pythons)
    plan = ab.Plan(suite, model, measurement, device, sides, pairs)
    started = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    path = output or Path("results/ab") / loaded.name / f"{started}.json"
    samples: list[ab.Sample] = []

    def follow(sample: ab.Sample) -> None:
        samples.append(sample)
        status = sample.record.validity.status
        click.echo(f"pair {sample.pair + 1} of {pairs}, {sample.side}: {status}", err=True)

    problem, status = "", 0
    try:
        ab.run_plan(plan, path, follow)
    except ab.SideError as error:
        problem, status = str(error), 1
    except KeyboardInterrupt:
        problem, status = "interrupted", 130
    if samples or form == "json":
        notes = [*ab.list_differences(samples), *ab.list_concerns(samples)]
        ratios = ab.compare_sides(samples)
        shown = show_ratios(plan, ratios, notes, len(ab.list_pairs(samples)))
        print_report([shown], dump_ratios(ratios, notes), form)
    if path.exists():
        click.echo(f"every measurement: {path}", err=form == "json")
    if problem:
        click.echo(f"Error: {problem}", err=True)
    return status


def _make_sides(
    suite: Suite, precisions: Sequence[str], pythons: Sequence[str]
) -> tuple[ab.Side, ab.Side]:
    """Two precisions in this environment, or one in two environments."""
    known = [precision.name for precision in suite.precisions]
    names = [check_name("precision", name, known) for name in precisions]
    if len(names) == 2 and not pythons:
        return ab.Side("A", names[0], sys.executable), ab.Side("B", names[1], sys.executable)
    if len(names) == 1 and len(pythons) == 2:
        for python in dict.fromkeys(pythons):
            ab.check_python(python)
        return ab.Side("A", names[0], pythons[0]), ab.Side("B", names[0], pythons[1])
    raise InputError(
        "give --precision twice, or --precision once and --python twice; found "
        f"--precision {len(names)} times and --python {len(pythons)} times"
    )
