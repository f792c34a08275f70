"""What the plugin keeps between pytest's hooks: the suites, the machine, and one run per suite.

What only a measurement needs is imported then: collecting does not wait for it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import InputError
from harness.plugin.node_ids import NamedNodes
from harness.plugin.options import read_options
from harness.plugin.progress import Terminal
from harness.suite.cells import Cell
from harness.suite.models import MeasurementSpec, Suite
from harness.suite.yaml_file import YamlFile

if TYPE_CHECKING:
    from harness.run.machine import Machine
    from harness.run.suite_run import SuiteRun
    from harness.worker.messages import Progress


class State:
    """One pytest invocation; opens a suite's run when its first measurement is made."""

    def __init__(self, config: pytest.Config) -> None:
        self.options = read_options(config)
        self.named = NamedNodes(config.invocation_params.dir)
        self.terminal = Terminal(config)
        self.suites: dict[Path, Suite] = {}
        self.broken_suites: list[Path] = []
        self.finished: list[SuiteRun] = []  # that measured anything
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.page: Path | None = None  # the report, once it is written
        self.replayed: set[str] = set()  # names in pytest-benchmark's tables
        self._config = config
        self._planned: dict[Path, list[tuple[Cell, MeasurementSpec]]] = {}
        self._cells: dict[str, int] = {}  # number of each planned cell, from 1
        self._run: SuiteRun | None = None

    def add_suite(self, suite: Suite) -> None:
        """Remember a suite; raises ValueError for a name or node id that cannot be meant."""
        for other in self.suites.values():
            if other.name == suite.name and other.path != suite.path:
                raise ValueError(
                    f"{self.show_path(suite.path)}: the name {suite.name!r} is also that of "
                    f"{self.show_path(other.path)}; results are kept by suite name, so give it "
                    "another"
                )
        self.suites[suite.path] = suite
        self.named.check(suite, self.show_path(suite.path))

    def plan(self, path: Path, cell: Cell, measurement: MeasurementSpec) -> None:
        """Add a measurement that will be made; all are known before the first is made."""
        self._planned.setdefault(path, []).append((cell, measurement))
        self._cells.setdefault(cell.id, len(self._cells) + 1)

    @cached_property
    def machine(self) -> Machine:
        """The machine, inspected on first use; raises ValueError where the device is not there."""
        from harness.run.machine import inspect_machine, probe_hub

        online = probe_hub([self.suites[path] for path in self._planned])
        machine = inspect_machine(self.options.device, self._config.rootpath, online)
        if machine.notice is not None:
            self.terminal.show_notice(machine.notice)
        return machine

    def open_run(self, suite: Suite) -> SuiteRun:
        """The run of ``suite``; ends the one before.

        Raises ValueError or OSError where this machine or folder cannot run it at all.
        """
        from harness.run.suite_run import SuiteRun

        if self._run is None or self._run.suite.path != suite.path:
            self._check_bless()
            self._check_repeats(suite)
            self.finish()
            self._run = SuiteRun(
                suite,
                self._planned.get(suite.path, ()),
                self.machine,
                self.options.settings,
                self._show_progress,
                self.terminal.show_notice,
            )
        return self._run

    def finish(self) -> None:
        """End the current run's process and write its run file."""
        run, self._run = self._run, None
        if run is not None and run.finish() is not None:
            self.finished.append(run)

    def show_path(self, path: Path) -> str:
        """A path as a person in the invocation folder would type it."""
        for folder in (self._config.invocation_params.dir, self._config.rootpath):
            if path.is_relative_to(folder):
                return str(path.relative_to(folder))
        return str(path)

    @cached_property
    def _failed_before(self) -> dict[str, Any]:
        return {str(key): key for key in self._last_failed()}

    def recall_failure(self, node: pytest.Collector | pytest.Item) -> None:
        """Make ``--lf`` recognise a node.

        From 9.2 on pytest keeps ids in parts and splits those in its cache at the first bracket,
        so ``model[precision]::measurement`` read back differs from the one collected.
        """
        failed = self._last_failed()
        key = self._failed_before.get(node.nodeid)
        if key in failed:
            failed[getattr(node, "id", node.nodeid)] = failed.pop(key)

    def _last_failed(self) -> dict[Any, bool]:
        plugin = self._config.pluginmanager.get_plugin("lfplugin")
        failed: dict[Any, bool] = getattr(plugin, "lastfailed", {})
        return failed

    def _check_bless(self) -> None:
        """Raise `InputError` before the long work where this tree cannot be blessed."""
        git = self.machine.environment["git"]
        if self.options.bless and (git["sha"] is None or git["dirty"]):
            found = "is in no commit" if git["sha"] is None else "has uncommitted changes"
            raise InputError(f"--bless: the tree {found}: commit first, thresholds name a commit")

    def _check_repeats(self, suite: Suite) -> None:
        """Raise `InputError` where a measurement is to be made in processes that there are not."""
        if self.options.settings.isolate:
            return
        file = YamlFile(suite.path.read_bytes())
        for _, measurement in self._planned.get(suite.path, ()):
            options = measurement.options
            if options.repeats > 1:
                line, column = file.place(("measure", measurement.name, options.REPEATS or ""))
                raise InputError(
                    f"{self.show_path(suite.path)}:{line}:{column}: `{options.REPEATS}: "
                    f"{options.repeats}` of {measurement.name} does not work with --no-isolate: "
                    "leave one of them out"
                )

    def _show_progress(self, cell: str, measurement: str, progress: Progress) -> None:
        number = "reference"  # not selected, but measured for the cells that were
        if cell in self._cells:
            number = f"cell {self._cells[cell]}/{len(self._cells)}"
        self.terminal.show_progress(f"{number} {cell} {measurement}", progress)
