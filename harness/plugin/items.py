"""A suite file as pytest's nodes: a file of cells, a cell of measurements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_measurement
from harness.plugin.state import State
from harness.records.record import Record
from harness.suite.cells import Cell, build_cells
from harness.suite.models import MeasurementSpec, Suite
from harness.suite.read import load_suite

STATE = pytest.StashKey[State]()


class MeasurementError(Exception):
    """A measurement that gave no number, or a number outside its limit."""

    def __init__(self, text: str, traceback: str = "") -> None:
        super().__init__(text)
        self.traceback = traceback


class SuiteFile(pytest.File):
    """One suite; yields a collector per cell."""

    def collect(self) -> Iterator[CellCollector]:
        state = self.config.stash[STATE]
        if not self.config.option.collectonly and not hasattr(self.config, "workerinput"):
            from harness.run.process import start_server

            start_server()  # it imports torch while the rest is collected
        try:
            suite = load_suite(self.path, self.config.rootpath)
            state.add_suite(suite)
        except ValueError as error:  # SuiteError and UnknownNameError among them
            state.broken_suites.append(self.path)
            raise self.CollectError(str(error)) from None
        self._register_markers(suite)
        for cell in build_cells(suite, state.options.selection):
            collector = CellCollector.from_parent(self, name=cell.id, suite=suite, cell=cell)
            state.recall_failure(collector)
            yield collector

    def _register_markers(self, suite: Suite) -> None:
        """Make the names that ``-m`` may use known to pytest, which can be strict about them."""
        names = {m.name: "measurements of this kind" for m in suite.measurements}
        for precision in suite.precisions:
            names |= dict.fromkeys((precision.name, precision.use), "cells of this precision")
        known = {line.partition(":")[0] for line in self.config.getini("markers")}
        for name in names.keys() - known:
            self.config.addinivalue_line("markers", f"{name}: {names[name]}")


class CellCollector(pytest.Collector):
    """One model at one precision; yields an item per measurement."""

    def __init__(self, *, suite: Suite, cell: Cell, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.suite = suite
        self.cell = cell

    def collect(self) -> Iterator[MeasurementItem]:
        state = self.config.stash[STATE]
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
        precision = self.cell.precision
        for name in dict.fromkeys((measurement.name, precision.name, precision.use)):
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
        """Name the case in a JUnit report: pytest 9.2 would add a bracket to it."""
        for plugin in self.config.pluginmanager.get_plugins():
            if hasattr(plugin, "node_reporter"):
                reporter = plugin.node_reporter(getattr(self, "id", self.nodeid))
                reporter.add_attribute("name", f"{self.cell.id}::{self.name}")

    def runtest(self) -> None:
        if hasattr(self.config, "workerinput"):
            raise MeasurementError(
                "precision-harness does not run under pytest-xdist: cells that share a machine "
                "disturb each other's timings and memory. Run suites without -n."
            )
        state = self.config.stash[STATE]
        try:
            run = state.open_run(self.suite)
        except (ValueError, OSError, RuntimeError) as error:  # this machine cannot run it at all
            pytest.exit(str(error), pytest.ExitCode.USAGE_ERROR)
        record = run.measure(self.cell, self.measurement)
        state.terminal.clear_progress()
        self._publish(record)
        bad = {"FAIL", *state.options.also_failing}
        if run.lacks_reference(record):
            bad.add("INCONCLUSIVE")
        self._judge(record, bad, f"Run file: {state.show_path(run.path)}")

    def _judge(self, record: Record, bad: set[str], where: str) -> None:
        """Fail or skip the item; ``bad`` are the outcomes that fail it."""
        status, reasons = record.validity.status, "; ".join(record.validity.reasons)
        if status == "skipped" and "skipped" not in bad:
            pytest.skip(reasons)
        if status in ("skipped", "failed", "invalid"):
            text = f"{self.cell.id} {self.name} {status}: {reasons}\n{where}"
            raise MeasurementError(text, record.traceback)
        broken = [verdict.text for verdict in record.verdicts if verdict.outcomes & bad]
        if broken:
            raise MeasurementError("\n".join([*broken, where]))

    def _publish(self, record: Record) -> None:
        """Pass the values to JUnit reports and to pytest-benchmark."""
        from harness.report.benchmark_table import replay
        from harness.report.junit import list_properties

        self.user_properties.extend(list_properties(record))
        session = getattr(self.config, "_benchmarksession", None)
        if session is not None and not session.disabled and record.samples and record.usable:
            series = load_measurement(record.measurement).series(record)
            state = self.config.stash[STATE]
            state.replayed.update(replay(session, self.nodeid, series, self.warn))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """One paragraph; the traceback below it only with ``--full-trace``."""
        if isinstance(excinfo.value, MeasurementError):
            text = str(excinfo.value)
            if excinfo.value.traceback and self.config.getoption("fulltrace"):
                return f"{text}\n\n{excinfo.value.traceback}"
            hint = "\n(--full-trace shows where)" if excinfo.value.traceback else ""
            return text + hint
        return super().repr_failure(excinfo, style)
