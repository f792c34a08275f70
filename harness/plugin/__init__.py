"""The pytest plugin: options, collection, items, terminal summary. The only file importing pytest.

Loaded by one line in a root conftest.py: ``pytest_plugins = ["harness.plugin"]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import UnknownNameError, load_measurement
from harness.errors import InputError
from harness.plugin.invocation import Invocation, positive_seconds
from harness.records.record import Record
from harness.report.junit import list_properties
from harness.run.process import start_server
from harness.run.session import Planned
from harness.suite.cells import Cell, build_cells, check_selection
from harness.suite.models import MeasurementSpec, Suite
from harness.suite.read import load_suite

_STATE = pytest.StashKey[Invocation]()
_SUITE_KEYS = re.compile(rb"^(models|precisions|measure)[ \t]*:", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("precision-harness", "which precision of a language model to ship")
    for name, what in (
        ("precision", "precisions"),
        ("model", "models"),
        ("measure", "measurements"),
    ):
        group.addoption(
            f"--{name}",
            action="append",
            default=[],
            metavar="NAME[,NAME…]",
            help=f"only these {what}; may be repeated",
        )
    group.addoption("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where cells run")
    group.addoption(
        "--results",
        default="results/runs",
        metavar="DIR",
        help="where run files go, under the root folder (default: results/runs)",
    )
    group.addoption(
        "--against",
        metavar="FILE|REV|none",
        help="judge by these thresholds or this earlier run, beside the suite's limits "
        "(default: results/thresholds/<suite>/<device>.json, where it exists)",
    )
    group.addoption(
        "--bless", action="store_true", help="make thresholds of this run; takes --reason"
    )
    group.addoption("--reason", default="", metavar="TEXT", help="why, for --bless")
    group.addoption(
        "--on-inconclusive",
        choices=("warn", "fail"),
        default="warn",
        help="what becomes of a limit that could not be judged",
    )
    group.addoption(
        "--require-all",
        action="store_true",
        help="a cell that is skipped for want of its model, data or device counts as failed, "
        "and so does a limit that cannot be judged without it",
    )
    group.addoption(
        "--cell-timeout",
        type=positive_seconds,
        metavar="SECONDS",
        help="kill a cell's process that takes longer",
    )
    group.addoption(
        "--no-isolate",
        action="store_true",
        help="run cells inside pytest's own process, for a debugger; memory peaks mean less",
    )


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("--device")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise pytest.UsageError(f"--device: expected auto, cpu, cuda or cuda:N, found {device!r}")
    if config.getoption("--bless") and not config.getoption("--reason").strip():
        raise pytest.UsageError("--bless needs --reason 'why these numbers are the new ones'")
    state = Invocation(config)
    config.stash[_STATE] = state
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
    return SuiteFile.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    state = config.stash[_STATE]
    suites = state.session.suites
    if not suites or state.broken_suites:
        return
    try:
        check_selection(suites.values(), state.session.selection)
    except UnknownNameError as error:
        raise pytest.UsageError(str(error)) from None
    _keep_together(items)


def _keep_together(items: list[pytest.Item]) -> None:
    """Bring a suite's items, and in it a cell's, next to each other: one run, one load of each."""
    seen: dict[Path | tuple[Path, str], int] = {}
    for item in items:
        if isinstance(item, MeasurementItem):
            seen.setdefault(item.path, len(seen))
            seen.setdefault((item.path, item.cell.id), len(seen))

    def place(item: pytest.Item) -> tuple[int, int]:
        if not isinstance(item, MeasurementItem):
            return (-1, -1)
        return (seen[item.path], seen[item.path, item.cell.id])

    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    benchmarks = getattr(session.config, "_benchmarksession", None)
    only, skip = getattr(benchmarks, "only", False), getattr(benchmarks, "skip", False)
    session.config.stash[_STATE].session.plan(
        Planned(item.suite, item.cell, item.measurement)
        for item in session.items
        if isinstance(item, MeasurementItem) and not (skip if item.timed else only)
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a skip at its suite, not at the line of this file that raised it."""
    report = yield
    if isinstance(item, MeasurementItem) and isinstance(report.longrepr, tuple):
        report.longrepr = (str(item.path), 1, report.longrepr[2])
    return report


@pytest.hookimpl(tryfirst=True)  # whatever another plugin does at the end, the run file is there
def pytest_sessionfinish(session: pytest.Session) -> None:
    state = session.config.stash[_STATE]
    state.clear_progress()
    try:
        state.session.finish()
    except OSError as error:
        state.problem = f"the run file was not written, its journal is kept: {error}"
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    if session.config.getoption("--bless") and not state.problem:
        try:
            state.bless()
        except (InputError, OSError) as error:
            state.unblessed = f"ERROR: not blessed: {error}"
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
    if state.find_unmeasured() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if state.broken_suites and session.exitstatus == pytest.ExitCode.INTERRUPTED:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: Any, config: pytest.Config
) -> Generator[None, None, None]:
    """Last, and also where another plugin's summary ends in an error, as a regression's does."""
    try:
        return (yield)
    finally:
        _summarise(terminalreporter, config)


def _summarise(terminalreporter: Any, config: pytest.Config) -> None:
    from harness.report.summary import summarise_run
    from harness.report.terminal import write_terminal

    state = config.stash[_STATE]
    if state.problem:
        terminalreporter.write_line(state.problem, red=True)
    markup = terminalreporter._tw
    details = config.get_verbosity() > 0
    for run in state.session.finished:
        assert run.result is not None
        summary = summarise_run(run.result, state.show_path(run.path), details)
        terminalreporter.section(summary.title, "=")
        terminalreporter.write_line(write_terminal(summary, markup.fullwidth, markup.hasmarkup))
        for recovered in run.recovered:
            path = state.show_path(recovered)
            terminalreporter.write_line(f"recovered from a run that was cut off: {path}")
    for line in state.blessed:
        terminalreporter.write_line(line)
    for problem in filter(None, (state.find_unmeasured(), state.unblessed)):
        terminalreporter.write_line(problem, red=True)
    for line in state.publish(os.environ):
        terminalreporter.write_line(line)


class SuiteFile(pytest.File):
    """One suite; yields a collector per cell."""

    def collect(self) -> Iterator[CellCollector]:
        state = self.config.stash[_STATE]
        if not self.config.option.collectonly and not hasattr(self.config, "workerinput"):
            start_server()  # it imports torch while the rest is collected
        try:
            suite = load_suite(self.path, self.config.rootpath)
            state.session.add_suite(suite, state.show_path)
            state.named.check(suite, state.show_path(suite.path))
        except ValueError as error:  # SuiteError and UnknownNameError among them
            state.broken_suites.append(self.path)
            raise self.CollectError(str(error)) from None
        state.register_markers(suite)
        for cell in build_cells(suite, state.session.selection):
            collector = CellCollector.from_parent(self, name=cell.id, suite=suite, cell=cell)
            state.recall_failure(collector)
            yield collector


class CellCollector(pytest.Collector):
    """One model at one precision; yields an item per measurement."""

    def __init__(self, *, suite: Suite, cell: Cell, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.suite = suite
        self.cell = cell

    def collect(self) -> Iterator[MeasurementItem]:
        state = self.config.stash[_STATE]
        wanted = state.named.measurements_of(self.path, self.cell.id)
        for measurement in self.cell.measurements:
            if wanted is None or measurement.name in wanted:
                item = MeasurementItem.from_parent(
                    self, name=measurement.name, measurement=measurement
                )
                state.recall_failure(item)
                yield item


class MeasurementItem(pytest.Item):
    """One measurement of one cell: recorded first, then judged."""

    parent: CellCollector

    def __init__(self, *, measurement: MeasurementSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measurement = measurement
        cell = self.parent.cell
        for name in dict.fromkeys((measurement.name, cell.precision.name, cell.precision.use)):
            self.own_markers.append(pytest.Mark(name, (), {}, _ispytest=True))
        self.timed = load_measurement(measurement.name).timed
        if self.timed:
            self.fixturenames = ["benchmark"]  # what pytest-benchmark's own options look for

    @property
    def suite(self) -> Suite:
        return self.parent.suite

    @property
    def cell(self) -> Cell:
        return self.parent.cell

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, 0, f"{self.cell.id}::{self.name}"

    def setup(self) -> None:
        """Name the case in a JUnit report: pytest 9.2 would put a bracket behind it."""
        for plugin in self.config.pluginmanager.get_plugins():
            if hasattr(plugin, "node_reporter"):
                reporter = plugin.node_reporter(getattr(self, "id", self.nodeid))
                reporter.add_attribute("name", f"{self.cell.id}::{self.name}")

    def runtest(self) -> None:
        if hasattr(self.config, "workerinput"):
            raise MeasurementError(
                "precision-harness does not run under pytest-xdist: cells that share a machine "
                "spoil each other's timings and memory. Run suites without -n."
            )
        state = self.config.stash[_STATE]
        try:
            state.check_bless()
            run = state.session.open_run(self.suite)
        except (ValueError, OSError, RuntimeError) as error:  # this machine cannot run it at all
            pytest.exit(str(error), pytest.ExitCode.USAGE_ERROR)
        record = run.measure(self.cell, self.measurement)
        state.clear_progress()
        self._publish(record)
        where = f"Run file: {state.show_path(run.path)}"
        status, reasons = record.validity.status, "; ".join(record.validity.reasons)
        if status == "skipped" and not self.config.getoption("--require-all"):
            pytest.skip(reasons)
        if status in ("skipped", "failed", "invalid"):
            raise MeasurementError(
                f"{self.cell.id} {self.name} {status}: {reasons}\n{where}", record.traceback
            )
        bad = {"FAIL", *state.also_failing}
        if run.lacks_reference(record):
            bad.add("INCONCLUSIVE")
        broken = [verdict.text for verdict in record.verdicts if verdict.verdict in bad]
        if broken:
            raise MeasurementError("\n".join([*broken, where]))

    def _publish(self, record: Record) -> None:
        """Show the values to JUnit reports and to pytest-benchmark."""
        self.user_properties.extend(list_properties(record))
        session = getattr(self.config, "_benchmarksession", None)
        if session is not None and not session.disabled and record.samples and record.usable:
            from harness.report.benchmark_table import replay

            series = load_measurement(record.measurement).series(record)
            replay(session, self.nodeid, series, self.warn)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """One paragraph; what lies beneath it only with ``--full-trace``."""
        if isinstance(excinfo.value, MeasurementError):
            text = str(excinfo.value)
            if excinfo.value.traceback and self.config.getoption("fulltrace"):
                return f"{text}\n\n{excinfo.value.traceback}"
            hint = "\n(--full-trace shows where)" if excinfo.value.traceback else ""
            return text + hint
        return super().repr_failure(excinfo, style)


class MeasurementError(Exception):
    """A measurement that gave no number, or a number outside its limit."""

    def __init__(self, text: str, traceback: str = "") -> None:
        super().__init__(text)
        self.traceback = traceback
