"""What one invocation holds: the suites, the machine, and a run per suite. No pytest, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.run.executor import OnProgress
from harness.run.machine import Machine, inspect_machine, probe_hub
from harness.run.suite_run import RunSettings, SuiteRun
from harness.suite.cells import Cell, Selection
from harness.suite.models import MeasurementSpec, Suite


@dataclass(frozen=True)
class Planned:
    """One measurement that this invocation will make."""

    suite: Suite
    cell: Cell
    measurement: MeasurementSpec


class Session:
    """Opens a suite's run with its first measurement and closes it with the next suite's."""

    def __init__(
        self,
        root: Path,
        device: str,
        selection: Selection,
        settings: RunSettings,
        on_progress: OnProgress,
        on_notice: Callable[[str], None],
    ) -> None:
        self.selection = selection
        self.suites: dict[Path, Suite] = {}
        self.finished: list[SuiteRun] = []
        self.planned: tuple[Planned, ...] = ()
        self._root = root
        self._device = device
        self._settings = settings
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._machine: Machine | None = None
        self._run: SuiteRun | None = None

    def add_suite(self, suite: Suite, show_path: Callable[[Path], str]) -> None:
        """Know a suite; raises ValueError for a second one of the same name."""
        for other in self.suites.values():
            if other.name == suite.name and other.path != suite.path:
                raise ValueError(
                    f"{show_path(suite.path)}: the name {suite.name!r} is also that of "
                    f"{show_path(other.path)}; results are kept by suite name, so give it another"
                )
        self.suites[suite.path] = suite

    def plan(self, planned: Iterable[Planned]) -> None:
        """Tell what will be measured, before the first of it is."""
        self.planned = tuple(planned)

    @property
    def machine(self) -> Machine:
        """The machine, inspected on first use; raises ValueError where the device is not there."""
        if self._machine is None:
            suites = {planned.suite.path: planned.suite for planned in self.planned}
            online = probe_hub(list(suites.values()))
            self._machine = inspect_machine(self._device, self._root, online)
        return self._machine

    def open_run(self, suite: Suite) -> SuiteRun:
        """The run of ``suite``; ends the one before. Raises OSError where nothing can be kept."""
        if self._run is None or self._run.suite.path != suite.path:
            machine = self.machine
            self.finish()
            own = [(p.cell, p.measurement) for p in self.planned if p.suite.path == suite.path]
            self._run = SuiteRun(
                suite, own, machine, self._settings, self._on_progress, self._on_notice
            )
        return self._run

    def finish(self) -> None:
        """End the current run's process and write its run file."""
        run, self._run = self._run, None
        if run is not None and run.finish() is not None:
            self.finished.append(run)

    def describe_device(self) -> str:
        """The device in words, for a person."""
        return self.machine.description
