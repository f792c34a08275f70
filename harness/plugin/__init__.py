"""The pytest plugin's hooks. Loaded by one line in a root conftest.py:

``pytest_plugins = ["harness.plugin"]``, or from any folder by `harness run`.
"""

import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import UnknownNameError
from harness.plugin.ending import end_session, hide_benchmarks, show_summary
from harness.plugin.items import STATE, MeasurementItem, SuiteFile
from harness.plugin.options import add_options
from harness.plugin.state import State
from harness.suite.cells import check_selection

_SUITE_KEYS = re.compile(rb"^(models|precisions|measure)[ \t]*:", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STATE] = state = State(config)
    config.args[:] = [state.named.split(argument) for argument in config.args]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SuiteFile | None:
    """A YAML file is a suite if it was named, lies in a folder ``suites``, or reads like one."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    named = parent.session.isinitpath(file_path)
    root = parent.config.rootpath
    inside = file_path.relative_to(root) if file_path.is_relative_to(root) else file_path
    placed = named or "suites" in inside.parent.parts
    if not placed and len(set(_SUITE_KEYS.findall(file_path.read_bytes()))) < 3:
        return None
    # Outside of its root folder pytest would leave the file out of node ids.
    outside = None if file_path.is_relative_to(root) else os.path.relpath(file_path, root)
    return SuiteFile.from_parent(parent, path=file_path, nodeid=outside)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    state = config.stash[STATE]
    if not state.suites or state.broken_suites:
        return
    _check_root(config, state)
    try:
        check_selection(state.suites.values(), state.options.selection)
    except UnknownNameError as error:
        raise pytest.UsageError(str(error)) from None
    _keep_together(items, state.options.settings.until_decided)


def _check_root(config: pytest.Config, state: State) -> None:
    """Refuse a root folder that pytest only guessed: results would go there.

    Without an ini file pytest takes the folder that the suite and the working folder have in
    common, which may be ``/``.
    """
    root = config.rootpath
    chosen = config.inipath is not None or config.getoption("rootdir") is not None
    known = chosen or any((root / name).exists() for name in ("conftest.py", "setup.py"))
    if known or root == config.invocation_params.dir:
        return
    suites = " ".join(str(path) for path in state.suites)
    raise pytest.UsageError(
        f"pytest does not know which folder {suites} belongs to, and would put results under "
        f"{root}. To put them under the working folder: harness run {suites}; to put them "
        "elsewhere: --rootdir DIR"
    )


def _keep_together(items: list[pytest.Item], until_decided: bool) -> None:
    """Bring a suite's items, and in it a cell's, next to each other: one run, one load of each.

    With ``until_decided`` those that are made in several processes come last: they are judged when
    all of them are measured.
    """
    seen: dict[Path | tuple[Path, str], int] = {}
    for item in items:
        if isinstance(item, MeasurementItem):
            seen.setdefault(item.path, len(seen))
            seen.setdefault((item.path, item.cell.id), len(seen))

    def place(item: pytest.Item) -> tuple[int, bool, int]:
        if not isinstance(item, MeasurementItem):
            return (-1, False, -1)
        is_late = until_decided and item.measurement.options.REPEATS is not None
        return (seen[item.path], is_late, seen[item.path, item.cell.id])

    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    benchmarks = getattr(session.config, "_benchmarksession", None)
    only, skip = getattr(benchmarks, "only", False), getattr(benchmarks, "skip", False)
    for item in session.items:
        if isinstance(item, MeasurementItem) and not (skip if item.timed else only):
            session.config.stash[STATE].plan(item.path, item.cell, item.measurement)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a skip at its suite, not at the line of the harness that raised it."""
    report = yield
    if isinstance(item, MeasurementItem) and isinstance(report.longrepr, tuple):
        report.longrepr = (str(item.path), 1, report.longrepr[2])
    return report


@pytest.hookimpl(tryfirst=True)  # the run file is written whatever other plugins do at the end
def pytest_sessionfinish(session: pytest.Session) -> None:
    end_session(session, session.config.stash[STATE])


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: Any, config: pytest.Config
) -> Generator[None, None, None]:
    """Last, and also where another plugin's summary ends in an error, as a regression's does."""
    hide_benchmarks(config, config.stash[STATE])
    try:
        return (yield)
    finally:
        show_summary(terminalreporter, config.stash[STATE], config)
