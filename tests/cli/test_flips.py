"""harness flips: what each precision lost against the reference, within one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.records.record import Record
from harness.records.run_file import write_run
from tests.support.flipped import choice_record
from tests.support.records import make_record, make_run, make_speeds

Capture = pytest.CaptureFixture[str]
SCORES = {"log_likelihoods": [[-1.0, -2.0]] * 3}


def answers(precision: str, chosen: str, **fields: object) -> Record:
    record = choice_record(precision, chosen, "AAB", **SCORES)
    paired = {} if precision == "fp32" else {"accuracy_drop": record.values.get("acc") or 0.1}
    made = make_record("x", values=paired).values
    return record.model_copy(update={"paired": made, **fields})


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    """nf4 loses item 1, fp4 items 0 and 1; fp32 again, and speeds, are none of its business."""
    records = (
        answers("fp32", "AAB"),
        answers("fp32", "BBB", noise=True),
        answers("nf4", "ABB"),
        answers("fp4", "BBB"),
        make_speeds(9.0),
    )
    run = make_run(*records)
    named = run.model_copy(update={"suite": {**run.suite, "reference": "fp32"}})
    return str(write_run(named, tmp_path / "run.json"))


def flips(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(["flips", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_each_precision_lost_is_shown_under_its_name(run_file: str, capsys: Capture) -> None:
    code, out, _ = flips(capsys, run_file)
    assert code == 0
    lines = out.splitlines()
    titles = [line for line in lines if "right in fp32" in line]
    assert titles == [
        "m[fp32] → m[nf4] mmlu: right in fp32, wrong in nf4",
        "m[fp32] → m[fp4] mmlu: right in fp32, wrong in fp4",
    ]
    assert "acc: fp32 says A (1.000 nats over B), nf4 says B (-1.000 nats over A)" in out
    assert "run A" not in out
    assert lines[0] == f"run: {run_file}"


def test_the_same_in_other_formats(run_file: str, capsys: Capture) -> None:
    [data] = json.loads(flips(capsys, run_file, "--format", "json")[1])
    lost = {one["b"]: [flip["number"] for flip in one["harmful"]] for one in data["flips"]}
    assert lost == {"m[nf4]": [1], "m[fp4]": [0, 1]}
    markdown = flips(capsys, run_file, "--format", "md")[1]
    assert "| option | fp32 | nf4 | chosen by |" in markdown


def test_a_cell_and_a_task_are_chosen_by_name(run_file: str, capsys: Capture) -> None:
    out = flips(capsys, run_file, "--cell", "m[fp4]", "--measure", "mmlu", "--items", "1")[1]
    assert "nf4" not in out
    assert "… 1 more; --items 2 shows all" in out
    code, _, err = flips(capsys, run_file, "--cell", "m[nf5]")
    assert (code, "did you mean 'm[nf4]'" in err) == (4, True)
    code, _, err = flips(capsys, run_file, "--measure", "mmul")
    assert (code, "did you mean 'mmlu'" in err) == (4, True)


def test_a_run_without_a_compared_task_is_refused(tmp_path: Path, capsys: Capture) -> None:
    path = write_run(make_run(make_speeds(9.0)), tmp_path / "run.json")
    code, out, err = flips(capsys, str(path))
    assert (code, out) == (4, "")
    assert "no task was compared with a reference" in err
