"""How an invocation ends: its runs are written, blessed and summarised.

What only runs need is imported where there are some: a project's other tests do not wait for it.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.plugin.state import State


def end_session(session: pytest.Session, state: State) -> None:
    """Write the last run file, bless where that was asked for, and set the exit status."""
    ok, exit_code = pytest.ExitCode.OK, pytest.ExitCode
    state.terminal.clear_progress()
    written = True
    try:
        state.finish()
    except OSError as error:
        written = False
        state.problems.append(f"the run file was not written, its journal is kept: {error}")
        session.exitstatus = exit_code.INTERNAL_ERROR
    if state.options.bless and written:
        from harness.verdicts.bless import bless_runs

        with _tell_problem(session, state, "not blessed"):
            for run in filter(None, (one.run for one in state.finished)):
                path, result = bless_runs([run], state.options.reason, session.config.rootpath)
                state.notes += result.list_lines(state.show_path(path))
    if state.options.report is not None and written:
        with _tell_problem(session, state, "the report was not written"):
            _write_page(state, state.options.report)
    unmeasured = _list_unmeasured(state)
    if unmeasured:
        count = f"{len(unmeasured)} blessed measurements were not made"
        state.problems.append(f"--require-all: {count}: {', '.join(unmeasured)}")
        if session.exitstatus == ok:
            session.exitstatus = exit_code.TESTS_FAILED
    if state.broken_suites and session.exitstatus == exit_code.INTERRUPTED:
        session.exitstatus = exit_code.USAGE_ERROR


@contextmanager
def _tell_problem(session: pytest.Session, state: State, what: str) -> Iterator[None]:
    """Show a mistake, or a file that cannot be written, and set the exit status for it."""
    try:
        yield
    except (InputError, OSError) as error:
        state.problems.append(f"ERROR: {what}: {error}")
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR


def hide_benchmarks(config: pytest.Config, state: State) -> None:
    """Leave our timings out of pytest-benchmark's tables, which would come before the summary.

    They are shown with ``-v`` or any option ``--benchmark-…``.
    """
    session = getattr(config, "_benchmarksession", None)
    given = [*config.invocation_params.args, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    given += config.getini("addopts")
    asked = config.get_verbosity() > 0 or any(one.startswith("--benchmark-") for one in given)
    if session is not None and state.replayed and not asked:
        from harness.report.benchmark_table import leave_out

        leave_out(session, state.replayed)


def show_summary(reporter: Any, state: State, config: pytest.Config) -> None:
    """Write the summary of each run, on the terminal and for GitHub Actions."""
    runs = [(one.run, one) for one in state.finished if one.run is not None]
    if runs:
        from harness.report.github import publish
        from harness.report.summary import summarise_run
        from harness.report.terminal import write_terminal
    writer = reporter._tw
    for run, one in runs:
        summary = summarise_run(run, state.show_path(one.path), config.get_verbosity() > 0)
        reporter.section(summary.title, "=")
        reporter.write_line(write_terminal(summary, writer.fullwidth, writer.hasmarkup))
        for recovered in one.recovered:
            path = state.show_path(recovered)
            reporter.write_line(f"recovered from a run that was cut off: {path}")
    for line in state.notes:
        reporter.write_line(line)
    for problem in state.problems:
        reporter.write_line(problem, red=True)
    if runs:
        files = [(run, one.path.name) for run, one in runs]
        for line in publish(os.environ, files, config.rootpath, state.options.also_failing):
            reporter.write_line(line)
    if state.page is not None:
        reporter.write_line(f"report: {state.show_path(state.page)}")


def _write_page(state: State, path: Path) -> None:
    """The report of all runs; raises `InputError` or OSError."""
    from harness.machine.files import write_atomically
    from harness.records.find_runs import find_runs
    from harness.report.html import write_html
    from harness.report.page import make_page

    root = state.options.settings.root
    found = [
        replace(run, name=state.show_path(one.path))
        for one in state.finished
        for run in find_runs(str(one.path), root)
    ]
    if found:
        write_atomically(path, write_html(make_page(found)))
        state.page = path


def _list_unmeasured(state: State) -> list[str]:
    """Under ``--require-all`` and without a selection: blessed measurements that are missing."""
    selection = state.options.selection
    if selection != type(selection)() or not state.options.require_all:
        return []
    return [name for one in state.finished for name in one.list_unmeasured()]
