"""`harness export`: a run as tables that pandas reads, every value and every item."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas
import pytest

from harness.cli import main
from harness.records.record import Value
from harness.records.run_file import Run, write_run
from tests.support.records import make_choices, make_record, make_run


def make_small() -> Run:
    answers = make_choices(lost=1, n=4, verdicts=())
    answers = answers.model_copy(
        update={
            "items": {
                **answers.items,
                "ids": "subject/number",
                "subjects": {"a": 3, "b": 1},
                "log_likelihoods": [[-1.0, -2.5], None, [0.0], [1.0]],
            },
            "paired": {
                "accuracy_drop[a]": Value(value=0.25, unit="", n=4, bounds=(0.1, 0.4), p=0.5)
            },
        }
    )
    windows = {"chunk_nll": [1.5, 2.5], "chunk_tokens": [10, 12], "batch_size": 8}
    text = make_record("perplexity", values={"ppl": 3.25}, items=windows)
    broken = make_record("memory", status="failed", reasons=('out of, "memory"', "twice"))
    return make_run(answers, text, broken)


def export(tmp_path: Path, form: str) -> Path:
    path = write_run(make_small(), tmp_path / "run.json")
    assert main(["export", str(path), f"--{form}", "-o", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_pandas_reads_every_value(tmp_path: Path, form: str) -> None:
    read = pandas.read_csv if form == "csv" else pandas.read_parquet
    found = read(export(tmp_path, form) / f"values.{form}")
    assert list(found["measurement"]) == ["mmlu", "mmlu", "perplexity", "memory"]
    assert list(found["value"][:3]) == [0.25, 0.25, 3.25]
    drop = found.iloc[1]
    assert (drop["name"], drop["qualifier"], bool(drop["paired"])) == ("accuracy_drop", "a", True)
    assert (drop["lower"], drop["upper"], drop["p"]) == (0.1, 0.4, 0.5)
    failed = found.iloc[3]
    assert failed["status"] == "failed"
    assert failed["reasons"] == 'out of, "memory"; twice'
    assert pandas.isna(failed["value"])


def test_every_item_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(tmp_path, "csv")
    assert capsys.readouterr().out == (f"{folder}/values.csv: 4 rows\n{folder}/items.csv: 6 rows\n")
    with (folder / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["right"] for row in rows[:4]] == ["0", "0", "1", "0"]
    assert [row["subject"] for row in rows[:4]] == ["a", "a", "a", "b"]
    assert rows[0]["log_likelihoods"] == "[-1.0, -2.5]"
    assert rows[1]["log_likelihoods"] == ""
    assert [(row["item"], row["chunk_nll"]) for row in rows[4:]] == [("0", "1.5"), ("1", "2.5")]
    assert "ids" not in rows[0]
    assert "batch_size" not in rows[0]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    found = pandas.read_parquet(export(tmp_path, "parquet") / "items.parquet")
    assert found["chunk_tokens"].dropna().tolist() == [10, 12]
    assert found["item"].dtype.kind == "i"


def test_a_form_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(make_small(), tmp_path / "run.json")
    assert main(["export", str(path)]) == 4
    assert "say in which form: --csv or --parquet" in capsys.readouterr().err
