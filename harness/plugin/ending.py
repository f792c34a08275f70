"""How an invocation ends: its runs are written, blessed and summarised.

What only runs need is imported where there are some: a project's other tests do not wait for it.
"""

import os
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

        try:
            for run in filter(None, (one.run for one in state.finished)):
                path, result = bless_runs([run], state.options.reason, session.config.rootpath)
                state.notes += result.list_lines(state.show_path(path))
        except (InputError, OSError) as error:
            state.problems.append(f"ERROR: not blessed: {error}")
            if session.exitstatus == ok:
                session.exitstatus = exit_code.USAGE_ERROR
    unmeasured = _list_unmeasured(state)
    if unmeasured:
        count = f"{len(unmeasured)} blessed measurements were not made"
        state.problems.append(f"--require-all: {count}: {', '.join(unmeasured)}")
        if session.exitstatus == ok:
            session.exitstatus = exit_code.TESTS_FAILED
    if state.broken_suites and session.exitstatus == exit_code.INTERRUPTED:
        session.exitstatus = exit_code.USAGE_ERROR


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


def _list_unmeasured(state: State) -> list[str]:
    """Under ``--require-all`` and without a selection: blessed measurements that are missing."""
    selection = state.options.selection
    if selection != type(selection)() or not state.options.require_all:
        return []
    return [name for one in state.finished for name in one.list_unmeasured()]
