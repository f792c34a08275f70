"""`harness plan SUITE.yaml`: every mistake once, with its line, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.records.run_file import read_run, write_run
from harness.statistics.power import items_to_pass
from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import ROOT

HEAD = """\
name: planned
reference: fp32
models:
  - {name: tiny, source: tiny}
precisions: [fp32, nf4]
"""
FIELDS = "prompt: '{prompt}', options: options, answer: answer"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "tiny")
    (tmp_path / "words.txt").write_text("some words to read\n" * 50)
    rows = [{"prompt": f"q {i}", "options": ["a", "b"], "answer": "a"} for i in range(10)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def plan(
    project: Path, capsys: pytest.CaptureFixture[str], text: str, status: int
) -> dict[str, Any]:
    (project / "s.yaml").write_text(text)
    assert main(["plan", "s.yaml", "--format", "json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_sound_suite(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD + (
        "measure:\n  footprint: {}\n  perplexity: {text: words.txt, context: 64}\n"
        f"  choices: {{data: items.jsonl, {FIELDS}}}\n"
        "limits:\n  - {precision: nf4, metric: choices.accuracy_drop, max: 0.02}\n"
    )
    found = plan(project, capsys, text, 0)
    assert found["mistakes"] == []
    assert found["items"] == {"choices": 10}
    assert found["download_bytes"] == {"tiny": 0}
    assert [cell["cell"] for cell in found["cells"]] == ["tiny[fp32]", "tiny[nf4]"]
    assert found["cells"][0]["total_bytes"] > 2 * found["cells"][1]["total_bytes"] > 0
    assert found["seconds"] is None
    (limit,) = found["undecidable_limits"]
    assert limit.startswith("s.yaml:11:5: choices.accuracy_drop max 0.02 is finer than 10 items")
    (needed,) = found["items_needed"].items()
    assert needed[0] == "s.yaml:11:5: choices.accuracy_drop max 0.02"
    assert needed[1] == items_to_pass(0.02, 0.08)
    assert f"{needed[1]:,} items pass this limit" in limit
    assert main(["plan", "s.yaml"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("planned: 2 cells; cpu (")
    assert "time: unknown, no earlier run on this device" in shown


def test_every_mistake_is_named_once_with_its_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "empty").mkdir()
    (project / "broken.jsonl").write_text('{"prompt": "q", "options": ["a", "b"]\n')
    (project / "lambada.jsonl").write_text('{"passage": "some words"}\n')
    (project / "maths.jsonl").write_text('{"question": "1 + 1?", "answer": "two"}\n')
    (project / "rows.csv").write_text("body,other\nsome text,1\n")
    text = HEAD.replace("precisions", "  - {name: bare, source: empty}\nprecisions") + (
        "measure:\n"
        "  perplexity: {text: words.txt, context: 4096}\n"
        "  divergence: {text: rows.csv, context: 64}\n"
        f"  choices: {{data: broken.jsonl, {FIELDS}}}\n"
        "  lambada: {data: lambada.jsonl}\n"
        "  mmlu: {data: empty}\n"
        "  gsm8k: {data: maths.jsonl, shots: 0}\n"
        "  memory: {prompt_tokens: 300, new_tokens: 20}\n"
        "  throughput: {prompt_tokens: [8, 250], new_tokens: 20}\n"
    )
    found = plan(project, capsys, text, 1)
    expected = [
        "5:5: empty has no config.json",
        "8:3: perplexity reads 4,096 tokens at once, tiny was made for 256 at most",
        "9:3: divergence: 'rows.csv' has no column 'text'; it has body, other",
        "10:3: choices: broken.jsonl, row 1: no JSON: ",
        "11:3: lambada: lambada.jsonl, row 1: ",
        "12:3: mmlu: mmlu: no dev/<subject>_dev.csv files in ",
        "13:3: gsm8k: maths.jsonl, row 1: ",
        "14:3: memory reads 320 tokens at once, tiny was made for 256 at most",
        "15:3: throughput reads 270 tokens at once, tiny was made for 256 at most",
    ]
    assert len(found["mistakes"]) == len(expected)
    for mistake, start in zip(found["mistakes"], expected, strict=True):
        assert mistake.startswith(f"s.yaml:{start}"), mistake
    assert main(["plan", "s.yaml"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("Mistakes:\ns.yaml:5:5: ")
    assert shown.count("empty has no config.json") == 2  # the mistake, and why cells are skipped


def test_what_cannot_be_had_is_no_mistake(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.run.plan_suite.probe_hub", lambda suites: False)
    text = HEAD.replace("source: tiny", "source: acme/tiny") + (
        "measure:\n  perplexity: {text: {path: acme/words, split: test}, context: 64}\n"
    )
    found = plan(project, capsys, text, 0)
    assert found["download_bytes"] == {"tiny": None}
    assert all("acme/tiny is not in the local cache" in c["skipped"] for c in found["cells"])
    assert "perplexity: dataset 'acme/words' is not on this machine" in found["lacking"][0]


def test_a_device_that_a_model_requires(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD.replace("source: tiny}", "source: tiny, requires: {memory: 4000GiB}}")
    found = plan(project, capsys, text + "measure: {footprint: {}}\n", 0)
    assert "requires 4e+03 GiB of memory" in found["cells"][0]["skipped"]


def test_a_mistake_of_the_file_itself_ends_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "s.yaml").write_text(HEAD + "measure: {perplexitty: {}}\n")
    assert main(["plan", "s.yaml"]) == 4
    assert "s.yaml:6:11: measure: unknown metric or task 'perplexitty'" in capsys.readouterr().err
    assert main(["plan", "s.yaml", "--vram", "24GiB"]) == 4
    assert "--vram is for a model" in capsys.readouterr().err
    assert main(["plan", "none.yaml"]) == 4
    assert "none.yaml:1:1: cannot read the suite: no such file" in capsys.readouterr().err


@pytest.mark.e2e
def test_times_are_those_of_an_earlier_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEAD + "measure: {footprint: {}, perplexity: {text: words.txt, context: 64}}\n"
    (project / "s.yaml").write_text(text)
    (project / "conftest.py").write_text('pytest_plugins = ["harness.plugin"]\n')
    import subprocess
    import sys

    command = [sys.executable, "-m", "pytest", "s.yaml", "-q", "-p", "no:cacheprovider"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(project)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (path,) = (project / "results/runs/planned").glob("*.json")
    run = read_run(path)
    total = sum(record.seconds["total"] for record in run.records)
    found = plan(project, capsys, text, 0)
    assert found["seconds"] == pytest.approx(total)
    assert found["seconds_from"] == f"the run of {run.run.utc}"
    # Another measurement was not timed, and a run of another device does not count.
    longer = plan(project, capsys, text.replace("footprint: {}", "memory: {}, footprint: {}"), 1)
    assert longer["seconds"] is None
    assert longer["seconds_from"].endswith("; the suite has changed since")
    other = run.run.model_copy(update={"device": "cuda:0"})
    write_run(run.model_copy(update={"run": other}), path)
    assert plan(project, capsys, text, 0)["seconds_from"] is None
