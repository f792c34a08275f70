"""One pytest invocation as the harness sees it: a `Session` made of pytest's options.

Knows pytest's configuration object, and nothing of its items and hooks (`harness.plugin`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.plugin.node_ids import NamedNodes
from harness.plugin.progress import ProgressLine
from harness.records.run_file import read_run
from harness.run.session import Session
from harness.run.suite_run import RunSettings
from harness.suite.cells import Selection
from harness.suite.models import Suite
from harness.worker.messages import Progress


class Invocation:
    """What the plugin adds to a `Session`: node ids, paths and progress as pytest shows them."""

    def __init__(self, config: Any) -> None:
        self.broken_suites: list[Path] = []
        self.problem = ""
        self.blessed: list[str] = []
        self.unblessed = ""
        self._config = config
        self._progress: ProgressLine | None = None
        self.named = NamedNodes(config.invocation_params.dir)
        self._markers: set[str] = set()
        self._failed: dict[str, Any] | None = None  # ids in --lf's cache
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
                root=config.rootpath,
                # What is blessed anew is not judged by what it replaces.
                against="none" if config.getoption("--bless") else config.getoption("--against"),
                isolate=not config.getoption("--no-isolate"),
                cell_timeout_s=config.getoption("--cell-timeout"),
            ),
            on_progress=self._show_progress,
            on_notice=self._show_notice,
        )

    def register_markers(self, suite: Suite) -> None:
        """Make the names that ``-m`` may use known to pytest, which can be strict about them."""
        names = {m.name: "measurements of this kind" for m in suite.measurements}
        for precision in suite.precisions:
            names |= dict.fromkeys((precision.name, precision.use), "cells of this precision")
        for name in names.keys() - self._markers:
            self._config.addinivalue_line("markers", f"{name}: {names[name]}")
        self._markers |= names.keys()

    @property
    def also_failing(self) -> set[str]:
        """Outcomes that fail this invocation beside FAIL, failed and invalid."""
        getoption, found = self._config.getoption, set()
        if getoption("--require-all"):
            found |= {"skipped", "INCONCLUSIVE"}
        if getoption("--on-inconclusive") == "fail":
            found.add("INCONCLUSIVE")
        return found

    def publish(self, environ: Mapping[str, str]) -> Iterable[str]:
        """Tell GitHub of the finished runs, where this is one of its jobs; the lines to print."""
        from harness.report.github import publish

        finished = ((r.result, r.path.name) for r in self.session.finished if r.result is not None)
        return publish(environ, finished, self._config.rootpath, self.also_failing)

    def check_bless(self) -> None:
        """Raise `InputError` before the long work where this tree cannot be blessed."""
        git = self.session.machine.environment["git"]
        if self._config.getoption("--bless") and (git["sha"] is None or git["dirty"]):
            state = "is of no commit" if git["sha"] is None else "has uncommitted changes"
            raise InputError(f"--bless: the tree {state}: commit first, thresholds name a commit")

    def find_unmeasured(self) -> str:
        """Under ``--require-all`` and without a selection: blessed measurements that are gone."""
        selected = any(map(self._config.getoption, ("--precision", "--model", "--measure")))
        if selected or not self._config.getoption("--require-all"):
            return ""
        lost = [name for run in self.session.finished for name in run.list_unmeasured()]
        told = f"{len(lost)} blessed measurements were not made: {', '.join(lost)}"
        return f"--require-all: {told}" if lost else ""

    def bless(self) -> None:
        """Make thresholds of the finished runs; raises `InputError` where one may not be."""
        from harness.verdicts.bless import bless_runs

        for run in self.session.finished:
            path, result = bless_runs(
                [read_run(run.path)], self._config.getoption("--reason"), self._config.rootpath
            )
            self.blessed += result.list_lines(self.show_path(path))

    def recall_failure(self, node: Any) -> None:
        """Have ``--lf`` know a node again.

        From 9.2 on pytest keeps ids in parts and takes those in its cache apart at the first
        bracket, so that ``model[precision]::measurement`` read back is unlike the one collected.
        """
        plugin = self._config.pluginmanager.get_plugin("lfplugin")
        failed: dict[Any, bool] = getattr(plugin, "lastfailed", {})
        if self._failed is None:
            self._failed = {str(key): key for key in failed}
        key = self._failed.get(node.nodeid)
        if key in failed:
            failed[getattr(node, "id", node.nodeid)] = failed.pop(key)

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

    def _show_notice(self, text: str) -> None:
        """A line of its own among pytest's."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            self.clear_progress()
            with self._uncaptured():
                reporter.ensure_newline()
                reporter.write_line(text, yellow=True)

    def _uncaptured(self) -> AbstractContextManager[Any]:
        """While a test runs pytest captures even what it writes itself."""
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else nullcontext()

    def _show_progress(self, cell: str, measurement: str, progress: Progress) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        if self._progress is None:
            writer = reporter._tw
            self._progress = ProgressLine(
                writer._file, writer.hasmarkup, writer.fullwidth, self._uncaptured
            )
        cells = list(dict.fromkeys(planned.cell.id for planned in self.session.planned))
        # A reference that was not selected is measured on behalf of the cells that were.
        number = f"cell {cells.index(cell) + 1}/{len(cells)}" if cell in cells else "reference"
        self._progress.show(f"{number} {cell} {measurement}", progress)


def _names(given: list[str]) -> tuple[str, ...]:
    """The names of a repeatable, comma-separated option."""
    return tuple(name.strip() for part in given for name in part.split(",") if name.strip())


def positive_seconds(text: str) -> float:
    """What ``--cell-timeout`` takes."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text!r}")
    return seconds
