"""progress: one line that rewrites itself on a terminal, now and then a line in a log."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from harness.plugin import progress
from harness.plugin.progress import ProgressLine, describe
from harness.worker.messages import Progress
from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import Project


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Screen(io.StringIO):
    """What a terminal shows of one line: a backspace moves, a character overwrites."""

    @property
    def line(self) -> str:
        cells: list[str] = []
        at = 0
        for character in self.getvalue():
            if character == "\b":
                at -= 1
                assert at >= 0
            else:
                cells[at : at + 1] = [character]
                at += 1
        self.column = at
        return "".join(cells).rstrip()


@pytest.mark.parametrize(
    ("done", "total", "elapsed", "text"),
    [
        (0, 60, 5.0, "0 of 60 windows"),
        (12, 60, 0.0, "12 of 60 windows"),
        (12, 60, 4.0, "12 of 60 windows, 3/s, about 16 s left"),
        (60, 60, 8.0, "60 of 60 windows, 7.5/s, about 0 s left"),
        (1, 3, 8.0, "1 of 3 windows, 0.125/s, about 16 s left"),
        (5000, 10_000, 2.0, "5000 of 10000 windows, 2,500/s, about 2 s left"),
    ],
)
def test_speed_and_time_left(done: int, total: int, elapsed: float, text: str) -> None:
    assert describe(Progress(done, total, "windows"), elapsed) == text


def test_a_terminal_s_line_is_rewritten_and_leaves_no_trace(clock: Clock) -> None:
    screen = Screen()
    line = ProgressLine(screen, is_terminal=True, room=lambda: 200)
    line.show("m[nf4] perplexity", Progress(1, 60, "windows"))
    assert screen.line == " m[nf4] perplexity: 1 of 60 windows"
    assert screen.column == 0  # whatever is printed next overwrites it
    clock.now += 2
    line.show("m[nf4] mmlu", Progress(0, 9, "prompts"))
    assert screen.line == " m[nf4] mmlu: 0 of 9 prompts"
    line.clear()
    assert screen.line == ""
    assert screen.column == 0
    before = screen.getvalue()
    line.clear()
    assert screen.getvalue() == before


def test_a_terminal_is_redrawn_five_times_a_second(clock: Clock) -> None:
    screen = Screen()
    line = ProgressLine(screen, is_terminal=True, room=lambda: 200)
    line.show("a", Progress(1, 9, "windows"))
    clock.now += 0.19
    line.show("a", Progress(2, 9, "windows"))
    assert "1 of 9" in screen.line
    clock.now += 0.02
    line.show("a", Progress(3, 9, "windows"))
    assert "3 of 9" in screen.line


def test_a_narrow_terminal_is_not_wrapped(clock: Clock) -> None:
    screen = Screen()
    line = ProgressLine(screen, is_terminal=True, room=lambda: 40)
    line.show("a-long-name[nf4-dq] perplexity", Progress(1, 9, "windows"))
    assert screen.line == " 1 of 9 windows"
    screen = Screen()
    ProgressLine(screen, is_terminal=True, room=lambda: 8).show("a", Progress(1, 9, "windows"))
    assert screen.line == " 1 of 9"


def test_a_log_gets_a_whole_line_every_half_minute(clock: Clock) -> None:
    log = io.StringIO()
    line = ProgressLine(log, is_terminal=False, room=lambda: 80)
    for second in range(0, 91):
        clock.now = 1000.0 + second
        line.show("m[nf4] perplexity", Progress(second, 120, "windows"))
    line.clear()
    assert log.getvalue().split("\n") == [
        *("", "m[nf4] perplexity: 30 of 120 windows, 1/s, about 90 s left"),
        *("", "m[nf4] perplexity: 60 of 120 windows, 1/s, about 60 s left"),
        *("", "m[nf4] perplexity: 90 of 120 windows, 1/s, about 30 s left"),
        "",
    ]


def test_a_new_measurement_starts_the_clock_again(clock: Clock) -> None:
    log = io.StringIO()
    line = ProgressLine(log, is_terminal=False, room=lambda: 80)
    line.show("a", Progress(1, 9, "windows"))
    clock.now += 29
    line.show("b", Progress(1, 9, "windows"))
    clock.now += 29
    line.show("b", Progress(2, 9, "windows"))
    assert log.getvalue() == ""
    clock.now += 1
    line.show("b", Progress(3, 9, "windows"))
    assert log.getvalue() == "\nb: 3 of 9 windows, 0.1/s, about 60 s left\n"


@pytest.mark.e2e
def test_a_person_at_a_terminal_sees_it_while_pytest_captures(tmp_path: Path) -> None:
    """A real pytest on a real terminal: what a running test writes is captured otherwise."""
    project = Project(tmp_path)
    write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    project.write(
        "suites/s.yaml",
        "name: s\nmodels: [{name: m, source: ../model}]\nprecisions: [fp32]\n"
        "measure:\n  perplexity: {text: ../text.txt, context: 16, stride: 8, batch_size: 1}\n",
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "suites"],
        cwd=tmp_path,
        env={**project.environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # the other end is closed: how a terminal says the end
        while chunk := os.read(ours, 65536):
            seen += chunk
    os.close(ours)
    assert process.wait() == 0, seen.decode()
    assert re.search(rb"cell 1/1 m\[fp32\] perplexity: \d+ of \d+ windows", seen)
