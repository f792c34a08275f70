"""The layers that import-linter holds: what `make lint` accepts, and that breaking one fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.projects import ROOT

# A file of the package, a line that breaks a contract there, and the contract's name.
BROKEN = [
    ("report/markdown.py", "import harness.plugin", "Imports point down the layers"),
    ("suite/models.py", "import harness.metrics.perplexity", "Imports point down the layers"),
    ("suite/models.py", "import harness.machine.cache", "No circles"),
    ("verdicts/limits.py", "import harness.engines.base", "The host meets the cell"),
    ("run/process.py", "import torch", "The torch line"),
    ("statistics/power.py", "import pytest", "Only the plugin imports pytest"),
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    return subprocess.run(
        [*command, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(
        ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_holds(copy: Path) -> None:
    answer = lint(copy)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout


@pytest.mark.parametrize(("file", "line", "contract"), BROKEN)
def test_breaking_a_contract_fails(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / "harness" / file
    path.write_text(f"{path.read_text()}\n{line}  # noqa\n")
    answer = lint(copy)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert contract in answer.stdout
    assert "broken" in answer.stdout
