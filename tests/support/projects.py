"""A user's repository in a temporary folder, and real pytest processes that run in it.

Nothing of this process's environment that could change a result is handed on; caches are the
project's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from harness.records.record import Record
from harness.records.run_file import Run, read_run
from tests.support.hub_server import client_environment

ROOT = Path(__file__).parents[2]
PLUGIN_LINE = 'pytest_plugins = ["harness.plugin"]\n'
# A user who is as strict as pytest allows: every warning is an error, every marker is known.
STRICT_INI = """[pytest]
addopts = --strict-markers --strict-config
filterwarnings = error
"""
NOWHERE = "http://127.0.0.1:9"  # the discard port: refuses at once
FAST_THROUGHPUT = (
    "throughput: {prompt_tokens: 8, new_tokens: 3, min_rounds: 3, min_time_s: 0, warmup_s: 0}"
)
SENTENCES = "The cat sat on the mat and the dog lay by the door. " * 12
_TIMEOUT_S = 240  # of a process that hangs; nothing is judged by it


@dataclass(frozen=True)
class Outcome:
    """How a pytest process ended and what it wrote."""

    code: int
    text: str  # stdout and stderr

    @property
    def node_ids(self) -> list[str]:
        """What ``--collect-only -q`` listed."""
        return [line for line in self.text.splitlines() if re.fullmatch(r"\S+\.ya?ml::\S+", line)]

    @property
    def results(self) -> dict[str, str]:
        """Node id -> PASSED, FAILED, SKIPPED … as ``-v`` printed them."""
        pattern = r"^(\S+\.ya?ml::\S+) (PASSED|FAILED|SKIPPED|ERROR)"
        return dict(re.findall(pattern, self.text, re.MULTILINE))

    @property
    def failures(self) -> dict[str, str]:
        """Title -> the text below it in the section FAILURES."""
        section = re.search(r"^=+ FAILURES =+\n(.*?)^(=+|-+) .*[=-]+$", self.text, re.S | re.M)
        parts = re.split(r"^_{3,} (\S+) _{3,}\n", section[1] if section else "", flags=re.M)
        return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))

    @property
    def shows_traceback(self) -> bool:
        return any(
            mark in self.text for mark in ("Traceback (most recent", "INTERNALERROR", "\nE   ")
        )


@dataclass
class Project:
    """One folder with the one-line conftest.py; `run` starts pytest in it."""

    folder: Path
    hub: str = NOWHERE
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write("conftest.py", PLUGIN_LINE)
        self.write("pytest.ini", STRICT_INI)
        self.write("text.txt", SENTENCES)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def environment(self) -> dict[str, str]:
        inherited = client_environment(self.hub, self.folder / "hf")
        dropped = ("PYTEST_", "COV_", "CI", "BUILD_NUMBER", "GIT", "PRECISION_HARNESS")
        kept = {name: v for name, v in inherited.items() if not name.startswith(dropped)}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PRECISION_HARNESS_CACHE": str(self.folder / "harness-cache"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
            **self.variables,
        }

    def start(
        self, *arguments: str, command: tuple[str, ...] = ("-m", "pytest"), cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start pytest as the leader of a session, so that all it starts can be found."""
        return subprocess.Popen(
            [sys.executable, *command, *arguments],
            cwd=cwd or self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, cwd: Path | None = None) -> Outcome:
        return finish(self.start(*arguments, cwd=cwd))

    def collect(self, *arguments: str, cwd: Path | None = None) -> Outcome:
        return self.run("--collect-only", "-q", *arguments, cwd=cwd)

    def run_paths(self, suite: str) -> list[Path]:
        """The run files of a suite, oldest first."""
        paths = (self.folder / "results/runs" / suite).glob("*.json")
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns)

    def last_run(self, suite: str) -> Run:
        return read_run(self.run_paths(suite)[-1])


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for the end of a process; one that never ends is killed with all it started."""
    try:
        text, _ = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for member in list_session(process):
            member.kill()
        text, _ = process.communicate()
        raise AssertionError(f"pytest did not end:\n{text}") from None
    return Outcome(process.returncode, text)


def list_session(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The living processes of the session that ``process`` leads, itself included."""
    return [candidate for candidate in psutil.process_iter() if _lives_in(candidate, process.pid)]


def _lives_in(candidate: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(candidate.pid) == session and candidate.status() != "zombie"
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def find_records(run: Run) -> dict[str, Record]:
    """``cell::measurement`` -> record."""
    return {f"{record.cell.id}::{record.measurement}": record for record in run.records}


def read_junit(path: Path) -> dict[str, dict[str, Any]]:
    """Test name -> its properties."""
    return {
        str(case.get("name")): {str(p.get("name")): p.get("value") for p in case.iter("property")}
        for case in ET.parse(path).iter("testcase")
    }
