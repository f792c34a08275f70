"""`harness init` and `harness try`: suites written for a model, which then load, plan and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.cli.new_suite import find_limit
from harness.statistics.power import items_to_pass
from harness.suite.read import load_suite
from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("harness.cli.new_suite.ask_hub", lambda sources, folder: False)
    return tmp_path


def plan(capsys: pytest.CaptureFixture[str], file: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", file, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("items", [100, 300, 1568, 2850, 14042])
def test_a_limit_is_the_smallest_round_one_that_so_many_items_pass(items: int) -> None:
    limit = find_limit(items)
    assert limit is not None
    assert items_to_pass(limit, 0.08) <= items < items_to_pass(limit - 0.005, 0.08)
    assert limit / 0.005 == pytest.approx(round(limit / 0.005))


def test_too_few_items_get_no_limit() -> None:
    """30 items pass 15 points and more, which is no promise."""
    assert find_limit(30) is None


def test_a_suite_for_the_embedded_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "builtin:tiny-world"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("wrote suites/tiny-world.yaml: fp32, ")
    assert "wrote conftest.py" in shown
    assert (folder / "conftest.py").read_text() == 'pytest_plugins = ["harness.plugin"]\n'
    suite = load_suite(folder / "suites/tiny-world.yaml")
    assert suite.reference == "fp32"  # what the files hold
    assert "tf32" not in [p.name for p in suite.precisions]
    assert {"int8", "nf4", "nf4-dq"} <= {p.name for p in suite.precisions}
    found = plan(capsys, "suites/tiny-world.yaml")
    assert found["items"]["mmlu"] == 300  # 50 of each of six subjects
    assert found["mistakes"] == found["undecidable_limits"] == []
    schema = (folder / "suites/tiny-world.yaml").read_text().partition("$schema=")[2].split()[0]
    assert (folder / "suites" / schema).resolve() == ROOT / "harness/suite.schema.json"


def test_a_local_model_with_a_text_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(folder / "models" / "my model")
    (folder / "words.txt").write_text("some words to read\n" * 100)
    (folder / "conftest.py").write_text("import os\n")
    arguments = ["models/my model", "--text", "words.txt", "--precision", "int8,nf4-dq"]
    assert main(["init", *arguments, "-o", "checks/mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert 'add to conftest.py: pytest_plugins = ["harness.plugin"]' in shown
    assert (folder / "conftest.py").read_text() == "import os\n"
    suite = load_suite(folder / "checks/mine.yaml")
    assert [p.name for p in suite.precisions] == ["fp32", "int8", "nf4-dq"]
    assert suite.models[0].name == "my-model"
    found = plan(capsys, "checks/mine.yaml")
    assert found["mistakes"] == []
    assert [cell["skipped"] for cell in found["cells"]] == [None] * 3


def test_bad_input_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*arguments: str) -> str:
        assert main([*arguments]) == 4
        return capsys.readouterr().err

    write_checkpoint(folder / "tiny")
    assert "with --text FILE" in refuse("init", "./tiny")
    assert "--text none.txt: no such file" in refuse("init", "./tiny", "--text", "none.txt")
    assert "unknown precision 'nf3'" in refuse("init", "builtin:tiny-world", "--precision", "nf3")
    error = refuse("try", "builtin:tiny-world", "--precision", "tf32")
    assert "unknown precision 'tf32'" in error  # this device has none
    assert "no such file or folder: './none'" in refuse("try", "./none")
    assert sorted(p.name for p in folder.iterdir()) == ["tiny"]
    (folder / "suites").mkdir()
    (folder / "suites/tiny-world.yaml").write_text("mine")
    assert "exists already: remove it, or name another with --output" in refuse(
        "init", "builtin:tiny-world"
    )
    assert (folder / "suites/tiny-world.yaml").read_text() == "mine"


def test_what_does_not_fit_is_left_out_and_said(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.run import machine

    whole = machine.call_in_worker

    def call(function: Any, *arguments: Any) -> Any:
        found = whole(function, *arguments)
        from dataclasses import replace

        return replace(found, memory_bytes=3_000_000)

    monkeypatch.setattr(machine, "call_in_worker", call)
    assert main(["init", "builtin:tiny-world"]) == 0
    text = (folder / "suites/tiny-world.yaml").read_text()
    assert "  # - fp32  # needs 0.00394 GB, this machine has 0.003\n" in text
    assert load_suite(folder / "suites/tiny-world.yaml").reference == "bf16"


@pytest.mark.e2e
def test_try_measures_and_keeps_its_suite(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", max_position_embeddings=64)
    (tmp_path / "words.txt").write_text("some words to read\n" * 40)
    command = [sys.executable, "-m", "harness.cli", "try", "./tiny", "--text", "words.txt"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--precision", "nf4"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "results/try").glob("tiny-*.yaml")
    assert done.stdout.startswith("tiny: 2 cells; ")
    assert f"the suite: {file.relative_to(tmp_path)}" in done.stdout
    assert "tiny[nf4]" in done.stdout.partition("the suite: ")[2]
    (run,) = (tmp_path / "results/runs/tiny").glob("*.json")
    records = json.loads(run.read_text())["records"]
    assert {r["validity"]["status"] for r in records} <= {"ok", "flagged"}
    assert {r["cell"]["precision"] for r in records} == {"fp32", "nf4"}
