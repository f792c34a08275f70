"""What a run of a suite ends with on the terminal: the matrix, tables beneath it, where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from harness.report.details import render_details
from harness.report.flips import render_flips
from harness.report.matrix import list_notes, render_matrix
from harness.run.suite_run import SuiteRun


def summarise_run(
    run: SuiteRun,
    device: str,
    show_path: Callable[[Path], str],
    width: int,
    colour: bool,
    details: bool,
) -> Iterator[str]:
    """The lines of the summary; ``device`` in words, ``details`` adds the tables of ``-v``."""
    records = run.completed()
    yield device + (f"; reference {run.suite.reference}" if run.suite.reference else "")
    yield ""
    yield render_matrix(run.suite, records, width, colour)
    yield ""
    tables = [render_flips(records, width), render_details(run.suite, records) if details else ""]
    for table in filter(None, tables):
        yield table
        yield ""
    yield from run.remarks()
    yield from list_notes(records)
    for recovered in run.recovered:
        yield f"recovered from a run that was cut off: {show_path(recovered)}"
    yield f"run file: {show_path(run.path)}"
