"""`--confirm` in one suite: what is measured again with the blessed commit, and for how long."""

import time
from collections.abc import Callable
from pathlib import Path

from harness.records.record import SameNight
from harness.run.same_night import Task, announce, expect_seconds, measure_same_night
from harness.run.settings import RunSettings
from harness.verdicts.advice import show_time
from harness.worker.messages import Progress


class Confirmations:
    """Suspicious records measured again, as long as ``settings.at_most_s`` leaves time for it.

    ``output`` begins the names of the files with every process's numbers.
    """

    def __init__(
        self, settings: RunSettings, output: Path, on_notice: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._output = output
        self._on_notice = on_notice
        self._taken = 0
        self._spent_s = 0.0

    def take(self, task: Task, on_progress: Callable[[Progress], None]) -> tuple[SameNight, bool]:
        """What the pairs show, or why there are none; and whether Ctrl-C ended them."""
        commit, at_most = task.blessed.commit, self._settings.at_most_s
        if at_most is not None and self._spent_s + expect_seconds(task.record) > at_most:
            lacking = f"it would take longer than --at-most leaves: {show_time(at_most)} in all"
            return SameNight(commit=commit, lacking=lacking), False
        self._on_notice(announce(task.record, commit))
        self._taken += 1
        path = self._output.with_name(f"{self._output.name}-{self._taken}.json")
        start = time.monotonic()
        found = measure_same_night(task, self._settings, path, on_progress)
        self._spent_s += time.monotonic() - start
        return found
