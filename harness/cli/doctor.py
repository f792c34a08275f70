"""`harness doctor`: is this machine ready, and what to do where it is not."""

from dataclasses import asdict
from pathlib import Path

import click

from harness.cli.output import format_option, print_report
from harness.report.document import Cell, Document, Lines, Table, TableColumn, list_lines
from harness.run.doctor import Check, examine

_STYLES = {"ok": "good", "warning": "doubtful", "error": "bad"}


@click.command(name="doctor")
@click.option(
    "--results",
    default="results/runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="where runs are kept",
)
@format_option
def command(results: Path, form: str) -> int:
    """Try everything that a run needs from this machine; each fault comes with its fix.

    Exits with 1 where something does not work. A warning is about a part that runs may not need.
    """
    checks = list(examine(results))
    print_report([_show(checks)], [asdict(check) for check in checks], form)
    return 1 if any(check.status == "error" for check in checks) else 0


def _show(checks: list[Check]) -> Document:
    columns = (
        TableColumn("", tuple(Cell(c.name) for c in checks), numbers=False),
        TableColumn(
            "",
            tuple(Cell(c.status, _STYLES[c.status]) for c in checks),  # type: ignore[arg-type]
            numbers=False,
        ),
        TableColumn("", tuple(Cell(c.found) for c in checks), numbers=False),
    )
    fixes = [f"{check.name}: {check.fix}" for check in checks if check.fix]
    counts = {s: sum(c.status == s for c in checks) for s in ("error", "warning")}
    said = [f"{n} {status}{'s' * (n != 1)}" for status, n in counts.items() if n]
    answer = f"ready, with {', '.join(said)}" if said else "ready"
    if counts["error"]:
        answer = f"not ready: {', '.join(said)}"
    return Document(
        "", (Table(columns[:1], (columns[1:],)), *list_lines("Fixes:", fixes), Lines((answer,)))
    )
