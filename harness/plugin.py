"""The pytest plugin: options, collection, items, terminal summary. The only file importing pytest.

Loaded by one line in a root conftest.py: ``pytest_plugins = ["harness.plugin"]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import UnknownNameError
from harness.cells import Cell, Selection, build_cells, check_selection
from harness.progress import ProgressLine
from harness.record import Record
from harness.runner import RunSettings, SuiteRun
from harness.session import Planned, Session
from harness.suite import MeasurementSpec, Suite, SuiteError, load_suite
from harness.worker.protocol import Progress

_STATE = pytest.StashKey["HarnessState"]()
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
        "--on-inconclusive",
        choices=("warn", "fail"),
        default="warn",
        help="what becomes of a limit that could not be judged",
    )
    group.addoption(
        "--require-all",
        action="store_true",
        help="a cell that is skipped for want of its model, data or device counts as failed",
    )
    group.addoption(
        "--cell-timeout",
        type=_positive_seconds,
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
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError(
            "precision-harness cannot share a machine with pytest-xdist workers: cells would "
            "disturb each other's timings and memory. Run without -n."
        )
    state = HarnessState(config)
    config.stash[_STATE] = state
    config.args[:] = [state.split_argument(argument) for argument in config.args]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SuiteFile | None:
    """A YAML file is a suite if it was named, lies in a folder ``suites``, or reads like one."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    named = parent.session.isinitpath(file_path)
    placed = named or "suites" in file_path.parent.parts
    if not placed and len(set(_SUITE_KEYS.findall(file_path.read_bytes()))) < 3:
        return None
    return SuiteFile.from_parent(parent, path=file_path)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    state = config.stash[_STATE]
    suites = state.session.suites
    if not suites or state.broken_suites:
        return
    try:
        check_selection(suites.values(), state.session.selection)
    except UnknownNameError as error:
        raise pytest.UsageError(str(error)) from None
    unknown = state.find_unknown_ids(items)
    if unknown:
        raise pytest.UsageError(f"not found: {', '.join(unknown)}")


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_STATE].session.plan(
        Planned(item.suite, item.cell, item.measurement)
        for item in session.items
        if isinstance(item, MeasurementItem)
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    state = session.config.stash[_STATE]
    state.clear_progress()
    state.session.finish()
    if state.broken_suites and session.exitstatus == pytest.ExitCode.INTERRUPTED:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    from harness.report.matrix import list_notes, render_matrix

    state = config.stash[_STATE]
    for run in state.session.finished:
        records = run.completed()
        writer = terminalreporter._tw
        terminalreporter.section(f"precision-harness: {run.suite.name}", "=")
        reference = f"; reference {run.suite.reference}" if run.suite.reference else ""
        terminalreporter.write_line(f"{state.session.describe_device()}{reference}")
        terminalreporter.write_line("")
        terminalreporter.write_line(
            render_matrix(run.suite, records, writer.fullwidth, writer.hasmarkup)
        )
        terminalreporter.write_line("")
        for note in list_notes(records):
            terminalreporter.write_line(note)
        for recovered in run.recovered:
            path = state.show_path(recovered)
            terminalreporter.write_line(f"recovered from a run that was cut off: {path}")
        terminalreporter.write_line(f"run file: {state.show_path(run.path)}")


class SuiteFile(pytest.File):
    """One suite; yields a collector per cell."""

    def collect(self) -> Iterator[CellCollector]:
        state = self.config.stash[_STATE]
        try:
            suite = load_suite(self.path, self.config.rootpath)
        except SuiteError as error:
            state.broken_suites.append(self.path)
            raise self.CollectError(str(error)) from None
        try:
            state.session.add_suite(suite, state.show_path)
        except ValueError as error:
            state.broken_suites.append(self.path)
            raise self.CollectError(str(error)) from None
        for cell in build_cells(suite, state.session.selection):
            yield CellCollector.from_parent(self, name=cell.id, suite=suite, cell=cell)


class CellCollector(pytest.Collector):
    """One model at one precision; yields an item per measurement."""

    def __init__(self, *, suite: Suite, cell: Cell, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.suite = suite
        self.cell = cell

    def collect(self) -> Iterator[MeasurementItem]:
        wanted = self.config.stash[_STATE].wanted_measurements(self.path, self.cell.id)
        for measurement in self.cell.measurements:
            if wanted is None or measurement.name in wanted:
                yield MeasurementItem.from_parent(
                    self, name=measurement.name, measurement=measurement
                )


class MeasurementItem(pytest.Item):
    """One measurement of one cell: recorded first, then judged."""

    parent: CellCollector

    def __init__(self, *, measurement: MeasurementSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measurement = measurement
        cell = self.parent.cell
        for name in dict.fromkeys((measurement.name, cell.precision.name, cell.precision.use)):
            self.own_markers.append(pytest.Mark(name, (), {}, _ispytest=True))
        if measurement.name == "throughput":
            self.fixturenames = ["benchmark"]  # what pytest-benchmark's own options look for

    @property
    def suite(self) -> Suite:
        return self.parent.suite

    @property
    def cell(self) -> Cell:
        return self.parent.cell

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.cell.id}::{self.name}"

    def runtest(self) -> None:
        state = self.config.stash[_STATE]
        run = state.open_run(self.suite)
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
        bad = {"FAIL"}
        if self.config.getoption("--on-inconclusive") == "fail" or self.config.getoption(
            "--require-all"
        ):
            bad.add("INCONCLUSIVE")
        broken = [verdict.text for verdict in record.verdicts if verdict.verdict in bad]
        if broken:
            raise MeasurementError("\n".join([*broken, where]))

    def _publish(self, record: Record) -> None:
        """Show the values to JUnit reports and to pytest-benchmark."""
        for name, value in {**record.values, **record.paired}.items():
            self.user_properties.append((f"{self.name}.{name}", value.value))
        session = getattr(self.config, "_benchmarksession", None)
        if session is not None and not session.disabled and record.samples and record.usable:
            from harness.benchmark_table import list_series, replay

            replay(session, self.nodeid, list_series(record), self.warn)

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


class HarnessState:
    """What the plugin adds to a `Session`: node ids, paths and progress as pytest shows them."""

    def __init__(self, config: pytest.Config) -> None:
        self.broken_suites: list[Path] = []
        self._config = config
        self._progress: ProgressLine | None = None
        self._wanted: dict[tuple[Path, str], set[str] | None] = {}
        self.session = Session(
            root=config.rootpath,
            device=config.getoption("--device"),
            selection=Selection(
                precisions=_names(config.getoption("--precision")),
                models=_names(config.getoption("--model")),
                measures=_names(config.getoption("--measure")),
            ),
            settings=RunSettings(
                results=config.rootpath / config.getoption("--results"),
                argv=("pytest", *config.invocation_params.args),
                isolate=not config.getoption("--no-isolate"),
                cell_timeout_s=config.getoption("--cell-timeout"),
            ),
            on_progress=self._show_progress,
        )

    def split_argument(self, argument: str) -> str:
        """Turn ``FILE::cell::measurement`` into ``FILE::cell`` and remember the measurement.

        pytest takes everything after the first ``[`` of an argument for one parametrisation.
        """
        match = re.fullmatch(r"(.+\.ya?ml)::([^:\[]+\[[^\]]+\])(?:::(.+))?", argument)
        if match is None:
            return argument
        file, cell, measurement = match.groups()
        path = Path(os.path.abspath(self._config.invocation_params.dir / file))
        wanted = self._wanted.setdefault((path, cell), set())
        if measurement is None:
            self._wanted[path, cell] = None
        elif wanted is not None:
            wanted.add(measurement)
        return f"{file}::{cell}"

    def wanted_measurements(self, path: Path, cell: str) -> set[str] | None:
        """The measurements named on the command line for a cell; None for all."""
        return self._wanted.get((path, cell))

    def find_unknown_ids(self, items: list[pytest.Item]) -> list[str]:
        """Node ids of the command line that name no measurement of their cell."""
        found = {(i.path, i.cell.id, i.name) for i in items if isinstance(i, MeasurementItem)}
        return [
            f"{self.show_path(path)}::{cell}::{name}"
            for (path, cell), wanted in self._wanted.items()
            for name in sorted(wanted or ())
            if path in self.session.suites and (path, cell, name) not in found
        ]

    def open_run(self, suite: Suite) -> SuiteRun:
        """The suite's run; ends pytest where this machine cannot run it at all."""
        try:
            return self.session.open_run(suite)
        except (ValueError, OSError) as error:
            pytest.exit(str(error), pytest.ExitCode.USAGE_ERROR)

    def show_path(self, path: Path) -> str:
        """A path as a person in the invocation folder would type it."""
        for folder in (self._config.invocation_params.dir, self._config.rootpath):
            if path.is_relative_to(folder):
                return str(path.relative_to(folder))
        return str(path)

    def clear_progress(self) -> None:
        """Erase the progress line before pytest prints."""
        if self._progress is not None:
            self._progress.clear()

    def _show_progress(self, cell: str, measurement: str, progress: Progress) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        if self._progress is None:
            writer = reporter._tw
            self._progress = ProgressLine(writer._file, writer.hasmarkup, writer.fullwidth)
        cells = list(dict.fromkeys(planned.cell.id for planned in self.session.planned))
        # A reference that was not selected is measured on behalf of the cells that were.
        number = f"cell {cells.index(cell) + 1}/{len(cells)}" if cell in cells else "reference"
        self._progress.show(f"{number} {cell} {measurement}", progress)


def _names(given: list[str]) -> tuple[str, ...]:
    """The names of a repeatable, comma-separated option."""
    return tuple(name.strip() for part in given for name in part.split(",") if name.strip())


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if seconds <= 0:
        raise ValueError
    return seconds
