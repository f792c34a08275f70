"""What the plugin keeps between pytest's hooks: the suites, the machine, and one run per suite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.plugin.node_ids import NamedNodes
from harness.plugin.options import read_options
from harness.plugin.progress import Terminal
from harness.records.run_file import Run
from harness.run.machine import Machine, inspect_machine, probe_hub
from harness.run.suite_run import SuiteRun
from harness.suite.cells import Cell
from harness.suite.models import MeasurementSpec, Suite
from harness.worker.messages import Progress


@dataclass(frozen=True)
class Planned:
    """One measurement that this invocation will make."""

    suite: Suite
    cell: Cell
    measurement: MeasurementSpec


@dataclass(frozen=True)
class Finished:
    """A suite's run that has ended, and what its run file holds."""

    suite_run: SuiteRun
    run: Run


class State:
    """One pytest invocation; opens a suite's run when its first measurement is made."""

    def __init__(self, config: pytest.Config) -> None:
        self.options = read_options(config)
        self.named = NamedNodes(config.invocation_params.dir)
        self.terminal = Terminal(config)
        self.suites: dict[Path, Suite] = {}
        self.broken_suites: list[Path] = []
        self.finished: list[Finished] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._config = config
        self._planned: tuple[Planned, ...] = ()
        self._cells: list[str] = []
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

    def plan(self, planned: Iterable[Planned]) -> None:
        """Set what will be measured, before the first of it is."""
        self._planned = tuple(planned)
        self._cells = list(dict.fromkeys(one.cell.id for one in self._planned))

    @cached_property
    def machine(self) -> Machine:
        """The machine, inspected on first use; raises ValueError where the device is not there."""
        suites = {planned.suite.path: planned.suite for planned in self._planned}
        online = probe_hub(list(suites.values()))
        return inspect_machine(self.options.device, self._config.rootpath, online)

    def open_run(self, suite: Suite) -> SuiteRun:
        """The run of ``suite``; ends the one before.

        Raises ValueError or OSError where this machine or folder cannot run it at all.
        """
        if self._run is None or self._run.suite.path != suite.path:
            self._check_bless()
            self.finish()
            own = [(p.cell, p.measurement) for p in self._planned if p.suite.path == suite.path]
            self._run = SuiteRun(
                suite,
                own,
                self.machine,
                self.options.settings,
                self._show_progress,
                self.terminal.show_notice,
            )
        return self._run

    def finish(self) -> None:
        """End the current run's process and write its run file."""
        suite_run, self._run = self._run, None
        run = suite_run.finish() if suite_run is not None else None
        if suite_run is not None and run is not None:
            self.finished.append(Finished(suite_run, run))

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

    def _show_progress(self, cell: str, measurement: str, progress: Progress) -> None:
        # A reference that was not selected is measured for the cells that were.
        number, cells = "reference", self._cells
        if cell in cells:
            number = f"cell {cells.index(cell) + 1}/{len(cells)}"
        self.terminal.show_progress(f"{number} {cell} {measurement}", progress)
