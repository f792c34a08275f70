"""`harness ab`: real fresh interpreters in turn, the ratio over pairs, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.records.record import Record, Value
from harness.report.ab import show_ratios
from harness.report.terminal import write_terminal
from harness.run.ab import (
    Plan,
    Sample,
    Side,
    compare_sides,
    list_concerns,
    list_differences,
    list_pairs,
)
from tests.support.cells_in_process import write_llama
from tests.support.projects import ROOT
from tests.support.records import make_record

SUITE = """name: s
reference: fp32
models: [{name: m, source: ./model}]
precisions: [fp32, bf16]
measure:
  throughput: {prompt_tokens: 8, new_tokens: 3, min_rounds: 3, min_time_s: 0, warmup_s: 0, roofline: false}
  footprint: {}
  divergence: {text: text.txt}
"""  # noqa: E501


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ab")
    write_llama(folder / "model")
    (folder / "s.yaml").write_text(SUITE)
    (folder / "text.txt").write_text("words " * 50)
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "ab", "s.yaml", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.mark.e2e
def test_two_precisions_are_measured_in_turn(folder: Path, tmp_path: Path) -> None:
    code, out, err = run(
        folder, "--precision", "fp32", "--precision", "bf16", "--pairs", "2",
        "--output", str(tmp_path / "ab.json"),
    )  # fmt: skip
    assert code == 0, err
    kept = json.loads((tmp_path / "ab.json").read_text())
    assert [(s["pair"], s["side"]) for s in kept["samples"]] == [
        (0, "A"),
        (0, "B"),
        (1, "B"),
        (1, "A"),
    ]
    records = [Record.model_validate(s["record"]) for s in kept["samples"]]
    assert [r.cell.precision for r in records] == ["fp32", "bf16", "bf16", "fp32"]
    name = "decode_tokens_per_s[1]"
    a, b = [[r.values[name].value for r in records if r.cell.precision == p] for p in ("fp32", "bf16")]  # fmt: skip  # noqa: E501
    assert len({*a, *b}) == 4
    assert f"A = m[fp32]\nB = m[bf16]\n" in out  # noqa: F541
    assert name in out
    assert "2 of 2 pairs" in out
    assert "at least 6 pairs" in out
    assert "load_s" in out


@pytest.mark.e2e
def test_two_environments_and_another_measurement_as_json(folder: Path) -> None:
    """The same interpreter twice: bytes are equal, and nothing differs."""
    code, out, err = run(
        folder, "--precision", "bf16", "--python", sys.executable, "--python", sys.executable,
        "--pairs", "2", "--measure", "footprint", "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    total = next(row for row in found["ratios"] if row["value"] == "total_bytes")
    assert {total["ratio"][key] for key in ("value", "low", "high")} == {1.0}
    assert total["better_side"] is None
    assert found["notes"] == []
    kept = Path(err.strip().splitlines()[-1].partition(": ")[2])
    assert len(json.loads((folder / kept).read_text())["samples"]) == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--precision", "fp32", "--precision", "bf17"], "did you mean 'bf16'? Known: bf16, fp32"),
        (["--precision", "fp32"], "give --precision twice, or --precision once and --python twice"),
        (["--precision", "fp32"] * 3, "found --precision 3 times"),
        (["--precision", "fp32"] * 2 + ["--model", "n"], "unknown model 'n'"),
        (["--precision", "fp32"] * 2 + ["--measure", "through"], "did you mean 'throughput'?"),
        (["--precision", "fp32"] * 2 + ["--measure", "divergence"], "ab measures each side alone"),
        (["--precision", "fp32"] * 2 + ["--pairs", "1"], "1 is not in the range x>=2"),
        (["--precision", "fp32"] + ["--python", "/nowhere/python"] * 2, "No such file"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    folder: Path,
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert main(["ab", "s.yaml", *arguments]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert reason in shown.err


@pytest.mark.e2e
def test_a_python_without_the_harness_is_refused(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {sys.executable} -S -E "$@"\n')
    bare.chmod(0o755)
    code, _, err = run(folder, "--precision", "fp32", *["--python", str(bare)] * 2)
    assert code == 4
    assert "cannot import the harness" in err
    assert "install precision-harness there" in err


def test_a_suite_s_mistake_is_shown_with_its_position(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text(SUITE.replace("prompt_tokens", "prompt_token"))
    assert main(["ab", str(suite), "--precision", "fp32", "--precision", "bf16"]) == 4
    shown = capsys.readouterr().err
    assert "s.yaml:6:" in shown
    assert "did you mean 'prompt_tokens'" in shown


@pytest.mark.e2e
def test_a_side_that_fails_ends_it_with_its_reason(folder: Path, tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"x" * 40)
    (tmp_path / "s.yaml").write_text(SUITE.replace("  divergence: {text: text.txt}\n", ""))
    code, _, err = run(tmp_path, "--precision", "fp32", "--precision", "bf16", "--pairs", "2")
    assert code == 1
    assert "Error: side A: " in err
    kept = list((tmp_path / "results/ab/s").glob("*.json"))
    assert len(json.loads(kept[0].read_text())["samples"]) == 1


@pytest.mark.e2e
def test_an_interruption_keeps_what_was_measured(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ab.json"
    process = start(
        folder, "--precision", "fp32", "--precision", "bf16", "--pairs", "50",
        "--measure", "footprint", "--output", str(path),
    )  # fmt: skip

    def count() -> int:
        return len(json.loads(path.read_text())["samples"]) if path.exists() else 0

    while count() < 1 and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert count() >= 1
    assert str(path) in err or "interrupted" in err


# what is made of the samples


def sample(pair: int, side: Any, **values: float | None) -> Sample:
    made = {
        name: Value(value=value, better="higher" if name == "rate" else "lower")
        for name, value in values.items()
    }
    return Sample(pair, side, make_record("throughput", values=made), "cpu", {"torch": "2"}, {})


def test_ratios_are_paired_and_judged_in_the_value_s_own_direction() -> None:
    samples = [
        sample(0, "A", rate=10.0, time=1.0, odd=1.0),
        sample(0, "B", rate=11.0, time=1.1, odd=2.0),
        sample(1, "B", rate=22.1, time=2.2, odd=0.5),
        sample(1, "A", rate=20.0, time=2.0, odd=1.0),
        sample(2, "A", rate=40.0, time=4.0, odd=1.0),
        sample(2, "B", rate=44.0, time=4.41, odd=1.0),
    ]
    found = {row.value: row for row in compare_sides(samples)}
    assert found["rate"].ratio.value == pytest.approx((1.1 * 1.105 * 1.1) ** (1 / 3))
    assert found["rate"].a == pytest.approx(20)
    assert found["rate"].b / found["rate"].a == pytest.approx(found["rate"].ratio.value)
    assert found["rate"].better_side == "B"
    assert found["time"].better_side == "A"
    assert found["odd"].better_side is None
    assert found["odd"].pairs == 3


def test_invalid_and_unpaired_measurements_are_in_no_ratio() -> None:
    good = [sample(p, s, rate=10.0) for p in range(2) for s in "AB"]
    hot = make_record("throughput", values={}, status="invalid", reasons=("hot",))
    spoilt = [sample(2, "A", rate=99.0), Sample(2, "B", hot, "cpu", {}, {}), sample(3, "A", rate=1)]
    (row,) = compare_sides([*good, *spoilt])
    assert row.pairs == 2
    assert row.ratio.value == pytest.approx(1)
    assert list_concerns(spoilt) == ["B: invalid: hot"]
    assert compare_sides(spoilt) == []
    assert compare_sides([sample(0, "A", rate=1.0), sample(0, "B", rate=None)]) == []


def test_differences_between_environments_are_listed() -> None:
    record = make_record("throughput")
    a = Sample(0, "A", record, "cpu", {"bitsandbytes": "0.49", "torch": "2"}, {"version": "1"})
    b = Sample(0, "B", record, "cpu", {"bitsandbytes": "0.50", "torch": "2"}, {"version": "2"})
    assert list_differences([a, b]) == [
        "bitsandbytes: 0.49 in A, 0.50 in B",
        "precision-harness itself differs: the two may not measure the same",
    ]
    assert list_differences([a, a]) == []


def test_the_better_side_is_named_only_where_the_interval_leaves_one_out() -> None:
    sides = (Side("A", "fp32", "p"), Side("B", "bf16", "p"))
    plan = Plan(Path("s.yaml"), "m", "throughput", "cpu", sides, 6)
    samples = []
    for pair in range(6):
        steady, erratic = 1 + pair / 100, 1.0 + pair % 2
        samples += [sample(pair, "A", rate=10 * steady, time=erratic)]
        samples += [sample(pair, "B", rate=12 * steady, time=3 - erratic)]
    shown = show_ratios(plan, compare_sides(samples), ["a note"], 6)
    lines = write_terminal(shown).splitlines()
    assert next(line for line in lines if line.startswith("rate")).endswith("B")
    assert next(line for line in lines if line.startswith("time")).endswith("—")
    assert lines[-1] == "a note"
    assert not any("at least 6" in line for line in lines)


def test_a_single_whole_pair_is_counted_and_has_no_ratio() -> None:
    plan = Plan(
        Path("s.yaml"), "m", "throughput", "cpu",
        (Side("A", "fp32", "p"), Side("B", "bf16", "p")), 4,
    )  # fmt: skip
    samples = [sample(0, "A", rate=10.0), sample(0, "B", rate=12.0), sample(1, "B", rate=12.0)]
    assert len(list_pairs(samples)) == 1
    shown = show_ratios(plan, compare_sides(samples), [], len(list_pairs(samples)))
    text = write_terminal(shown)
    assert "no ratio: an interval needs 2 whole pairs" in text
    assert "1 of 4 pairs of fresh processes" in text
    assert "warning" not in text
