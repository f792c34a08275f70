"""A `LocalExecutor` that measures small speeds in real processes, and what can go wrong there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.catalog import load_measurement, load_precision
from harness.records.record import Record
from harness.run.executor import LocalExecutor
from harness.run.machine import Machine
from harness.suite.cells import Cell
from harness.suite.models import MeasurementSpec, ModelSpec, PrecisionSpec
from harness.worker.messages import Progress

QUICK = {
    "prompt_tokens": 8,
    "new_tokens": 3,
    "min_rounds": 3,
    "min_time_s": 0.0,
    "warmup_s": 0.0,
    "roofline": False,
}


class Watched:
    """An executor whose progress is given to ``act``: the number of the process, and ``done``."""

    def __init__(
        self, machine: Machine, act: Callable[[Watched, int], None] | None = None, **given: Any
    ) -> None:
        self.pids: list[int] = []
        self._act = act
        self.executor = LocalExecutor(Path("/"), machine, self._follow, **given)

    @property
    def process(self) -> int:
        """How many processes there were, the one at hand included."""
        return len(self.pids)

    def measure_speed(self, source: Path, remote: bool = False, **given: Any) -> Record:
        """A throughput record of the checkpoint ``source`` at fp32; ends the process."""
        model = ModelSpec(name="m", source=str(source), trust_remote_code=remote)
        options = load_precision("fp32").options()
        cell = Cell(model, PrecisionSpec(name="fp32", use="fp32", options=options), ())
        chosen = load_measurement("throughput").options(**{**QUICK, **given})
        try:
            return self.executor.measure(cell, MeasurementSpec(name="throughput", options=chosen))
        finally:
            self.executor.close()

    def _follow(self, cell: str, measurement: str, progress: Progress) -> None:
        pid = self.executor.pid
        if pid is not None and pid not in self.pids:
            self.pids.append(pid)
        if self._act is not None:
            self._act(self, progress.done)
