"""Progress of long measurements: one line that is rewritten on a terminal, lines in a log."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TextIO

import pytest

from harness.worker.messages import Progress

_LOG_EVERY_S = 30.0
_REDRAW_EVERY_S = 0.2


class ProgressLine:
    """Shows where a run is; on a terminal it leaves no trace once cleared.

    ``room`` says how many columns are left on the line that pytest is writing; ``uncaptured``
    gives a context in which writing, and asking for the width, reaches the terminal.
    """

    def __init__(
        self,
        stream: TextIO,
        is_terminal: bool,
        room: Callable[[], int],
        uncaptured: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._stream = stream
        self._uncaptured = uncaptured
        self._is_terminal = is_terminal
        self._room = room
        self._shown = 0
        self._label = ""
        self._began = self._last = time.monotonic()

    def show(self, label: str, progress: Progress) -> None:
        """``label`` says which cell and measurement; a new one starts the clock again."""
        now = time.monotonic()
        if label != self._label:
            self._label, self._began = label, now
            self._last = now if not self._is_terminal else 0.0
        every = _REDRAW_EVERY_S if self._is_terminal else _LOG_EVERY_S
        if now - self._last < every:
            return
        self._last = now
        state = describe(progress, now - self._began)
        text = f"{label}: {state}"
        if not self._is_terminal:
            self._write(f"\n{text}\n")
            return
        with self._uncaptured():
            room = self._room() - 1
        # Where both do not fit, how far it is matters more than what it is.
        text = f" {text if len(text) < room else state}"[: max(0, room)]
        padded = text.ljust(self._shown)
        # Stepping back lets whatever pytest prints next overwrite it.
        self._write(padded + "\b" * len(padded))
        self._shown = len(text)

    def clear(self) -> None:
        """Erase the line, leaving the cursor where it was."""
        if self._shown:
            self._write(" " * self._shown + "\b" * self._shown)
            self._shown = 0

    def _write(self, text: str) -> None:
        with self._uncaptured():
            self._stream.write(text)
            self._stream.flush()


def describe(progress: Progress, elapsed_s: float) -> str:
    """``12 of 60 windows, 3.1/s, about 15 s left``."""
    text = f"{progress.done} of {progress.total} {progress.unit}"
    if progress.done and elapsed_s > 0:
        rate = progress.done / elapsed_s
        left = (progress.total - progress.done) / rate
        shown = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        text += f", {shown}/s, about {left:.0f} s left"
    return text


class Terminal:
    """Writes among pytest's own lines: progress while a test runs, and notices."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager
        self._progress: ProgressLine | None = None

    def show_progress(self, label: str, progress: Progress) -> None:
        """``label`` says which cell and measurement."""
        reporter = self._plugins.get_plugin("terminalreporter")
        if reporter is None:
            return
        if self._progress is None:
            writer = reporter._tw
            self._progress = ProgressLine(
                writer._file,
                writer.hasmarkup,
                lambda: writer.fullwidth - writer.width_of_current_line,
                self._uncaptured,
            )
        self._progress.show(label, progress)

    def show_notice(self, text: str) -> None:
        """Write a line of its own."""
        reporter = self._plugins.get_plugin("terminalreporter")
        if reporter is not None:
            self.clear_progress()
            with self._uncaptured():
                reporter.ensure_newline()
                reporter.write_line(text, yellow=True)

    def clear_progress(self) -> None:
        """Erase the progress line before pytest prints."""
        if self._progress is not None:
            self._progress.clear()

    def _uncaptured(self) -> AbstractContextManager[Any]:
        """While a test runs pytest captures even what it writes itself."""
        capture = self._plugins.get_plugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else nullcontext()
