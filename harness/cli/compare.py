"""`harness compare`: find both sides' runs, compare those that belong together, print it."""

from collections.abc import Collection, Sequence
from pathlib import Path

import click

from harness.cli.output import format_option, print_report
from harness.errors import InputError
from harness.records.find_runs import Found, find_runs, name_device
from harness.report.comparison import dump_comparison, show_comparison, show_judged
from harness.report.ledger import dump_ledger, open_ledger, show_ledger
from harness.suite.allowed import is_question
from harness.verdicts.baseline import NOT_AS_WRITTEN, find_baseline, names_thresholds, pick_run
from harness.verdicts.compare import Comparison, compare_runs, is_identical

_STATUS = {"FAIL": 1, "INCOMPARABLE": 3, "INCONCLUSIVE": 2}  # the first that applies


@click.command(name="compare")
@click.argument("a")
@click.argument("b")
@click.option(
    "--allow",
    multiple=True,
    metavar="FIELD[,FIELD…]",
    help="Compare although this part of the question differs, such as protocol.shots; flagged. "
    "Repeatable.",
)
@format_option
@click.option(
    "--on-inconclusive",
    default="warn",
    show_default=True,
    type=click.Choice(["warn", "fail"]),
    help="What an undecided value means for the exit code.",
)
@click.option(
    "--flips",
    default=0,
    metavar="N",
    type=click.IntRange(min=0),
    help="Also show the N questions of each task that B lost most clearly, with both answers.",
)
@click.option(
    "--root",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The repository's folder, for revisions and results/thresholds.",
)
def command(
    a: str, b: str, allow: Sequence[str], form: str, on_inconclusive: str, flips: int, root: Path
) -> int:
    """Compare B with A, value by value and item by item.

    A and B are run files, folders (the newest run of each suite and device), or git revisions (the
    runs committed under results/ there). A may also be a file of thresholds, or a revision that has
    some.

    Both must answer the same question: data, prompts, protocol, tokenizer; for speed and memory
    also the device. What is under test may differ (weights, precision, libraries, driver, code) and
    is named beside what changed.

    \b
    Exit codes:
      0  nothing got worse
      1  something got worse
      2  something is undecided, under --on-inconclusive fail
      3  the runs cannot be compared
      4  wrong input
    """
    allow = [name.strip() for given in allow for name in given.split(",") if name.strip()]
    if Path(b).is_file() and names_thresholds(b, root):
        raise InputError(f"{b} holds thresholds: they go first, and the run that they judge second")
    if names_thresholds(a, root):
        return _judge_by_thresholds(a, find_runs(b, root), allow, form, on_inconclusive, root)
    pairs = _pair(find_runs(a, root), find_runs(b, root))
    compared = [_compare(x, y, allow) for x, y in pairs]
    _check_allowed(allow, compared)
    data, shown = [], []
    for (x, y), one in zip(pairs, compared, strict=True):
        pages = [
            open_ledger(before, after, x.read_beside, y.read_beside)
            for before, after in one.pairs
            if flips and not is_identical(before, after)
        ]
        ledgers = [page for page in pages if page is not None]
        dumped = [dump_ledger(page, flips) for page in ledgers]
        parts = [show_ledger(page, flips) for page in ledgers]
        data.append(dump_comparison(x.name, y.name, one, dumped))
        shown.append(show_comparison(x.label, y.label, one, parts))
    print_report(shown, data, form)
    return _find_status({one.verdict for one in compared}, on_inconclusive)


def _compare(x: Found, y: Found, allow: Sequence[str]) -> Comparison:
    try:
        return compare_runs(x.run, y.run, allow)
    except NOT_AS_WRITTEN as error:
        raise InputError(
            f"{x.name} and {y.name} cannot be compared: a field is not as the harness writes it "
            f"({type(error).__name__}: {error})"
        ) from error


def _judge_by_thresholds(
    a: str,
    runs: Sequence[Found],
    allow: Sequence[str],
    form: str,
    on_inconclusive: str,
    root: Path,
) -> int:
    """Each of the runs against the thresholds that ``a`` names."""
    shown, data = [], []
    found: set[str] = set()
    for one in runs:
        suite = str(one.run.suite.get("name"))
        baseline = find_baseline(a, suite, name_device(one.run), root, allow)
        assert baseline is not None
        verdicts = [v for r in one.run.records for v in baseline.judge(one.run, r)]
        verdicts += baseline.judge_lost(one.run.records)
        if not verdicts:
            raise InputError(f"nothing to compare: {baseline.name} has no threshold of {one.name}")
        found |= {verdict.verdict for verdict in verdicts}
        if baseline.has_changed(one.run):
            found.add("INCOMPARABLE")
        shown.append(show_judged(baseline.name, one.label, verdicts))
        plain = [verdict.model_dump() for verdict in verdicts]
        data.append({"thresholds": baseline.name, "run": one.name, "verdicts": plain})
    print_report(shown, data, form)
    return _find_status(found, on_inconclusive)


def _find_status(verdicts: Collection[str], on_inconclusive: str) -> int:
    found = next((verdict for verdict in _STATUS if verdict in verdicts), "PASS")
    is_allowed = found == "INCONCLUSIVE" and on_inconclusive == "warn"
    return 0 if is_allowed else _STATUS.get(found, 0)


def _pair(a: Sequence[Found], b: Sequence[Found]) -> list[tuple[Found, Found]]:
    """Runs of the same suite, the newest of the same device where there is one."""
    picked = [pick_run(a, str(y.run.suite.get("name")), name_device(y.run)) for y in b]
    pairs = [(x, y) for x, y in zip(picked, b, strict=True) if x is not None]
    if not pairs:
        names = [sorted({str(f.run.suite.get("name")) for f in side}) for side in (a, b)]
        raise InputError(
            f"nothing to compare: A has runs of {', '.join(names[0])}, B of {', '.join(names[1])}"
        )
    return pairs


def _check_allowed(allow: Collection[str], compared: Sequence[Comparison]) -> None:
    """Say on stderr what an ``--allow`` did nothing for: it was probably misspelt."""
    flags = [flag for one in compared for flag in one.flags]
    for name in allow:
        if not is_question(name):
            click.echo(f"warning: --allow {name}: stops no comparison", err=True)
        elif not any(flag.startswith((f"{name} ", f"{name}.")) for flag in flags):
            click.echo(f"warning: --allow {name}: both sides have the same", err=True)
