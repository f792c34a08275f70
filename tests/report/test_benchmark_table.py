"""pytest-benchmark's own options on our items, unchanged, in a user's repository."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from typing import Any

import pytest

from harness.records.record import Record
from harness.records.run_file import read_run
from tests.support.cells_in_process import write_llama
from tests.support.projects import Outcome, Project, find_records

SUITE = """name: s
reference: fp32
models: [{name: m, source: ../model}]
precisions: [fp32, bf16]
measure:
  throughput:
    prompt_tokens: [8, 16]
    new_tokens: 3
    batch_sizes: [1, 2]
    min_rounds: 3
    min_time_s: 0
    warmup_s: 0
    processes: 2
    roofline: false
"""
WORKLOADS = ("1x8", "2x8", "1x16", "2x16")
NAMES = [
    f"m[{p}]::{k}[{w}]" for p in ("fp32", "bf16") for w in WORKLOADS for k in ("prefill", "decode")
]

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Timed:
    """Two runs: the first saved, the second compared with it and exported."""

    project: Project
    saved: Outcome
    compared: Outcome

    @property
    def records(self) -> dict[str, Record]:
        return find_records(read_run(self.project.run_paths("s")[1]))

    @property
    def stored(self) -> dict[str, dict[str, Any]]:
        benchmarks = json.loads((self.project.folder / "bench.json").read_text())["benchmarks"]
        return {benchmark["name"]: benchmark for benchmark in benchmarks}


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Timed:
    project = Project(tmp_path_factory.mktemp("timed"))
    write_llama(project.folder / "model", num_hidden_layers=1)
    project.write("suites/s.yaml", SUITE)
    saved = project.run("--benchmark-autosave")
    compared = project.run(
        "--benchmark-compare", "--benchmark-json=bench.json", "--benchmark-columns=median,rounds"
    )
    return Timed(project, saved, compared)


def test_every_workload_has_its_lines_in_the_table(timed: Timed) -> None:
    assert timed.saved.code == 0, timed.saved.text
    for kind in ("prefill", "decode"):
        for batch in (1, 2):
            for prompt in (8, 16):
                heading = f"benchmark 'm {kind}, batch {batch}, prompt {prompt}': 2 tests"
                assert heading in timed.saved.text
    for name in NAMES:
        assert f"\n{name} " in timed.saved.text


def test_the_json_holds_the_rounds_of_all_processes(timed: Timed) -> None:
    assert timed.compared.code == 0, timed.compared.text
    assert sorted(timed.stored) == sorted(NAMES)
    for name, entry in timed.stored.items():
        cell, _, series = name.partition("::")
        kind, workload = series.rstrip("]").split("[")
        samples = timed.records[f"{cell}::throughput"].samples[workload]
        assert samples["rounds_per_process"] == [3, 3]
        key = "ttft_s" if kind == "prefill" else "decode_s"
        # The clock adds up, so the last digits may differ.
        assert entry["stats"]["data"] == pytest.approx(samples[key], rel=1e-9)
        assert entry["stats"]["rounds"] == 6
        batch, prompt = map(int, workload.split("x"))
        tokens = batch * (prompt if kind == "prefill" else 2)
        assert entry["extra_info"]["tokens"] == tokens
        assert entry["extra_info"]["batch_size"] == batch


def test_a_saved_run_is_compared_with(timed: Timed) -> None:
    [saved] = (timed.project.folder / ".benchmarks").rglob("0001_*.json")
    assert {b["name"] for b in json.loads(saved.read_text())["benchmarks"]} == set(NAMES)
    for name in NAMES:
        assert f"{name} (0001_" in timed.compared.text
        assert f"{name} (NOW)" in timed.compared.text


def test_a_regression_beyond_what_is_allowed_fails_the_session(timed: Timed) -> None:
    """pytest-benchmark's own judgement, on a saved run made a thousand times as fast."""
    [path] = (timed.project.folder / ".benchmarks").rglob("0001_*.json")
    text = path.read_text()
    saved = json.loads(text)
    for benchmark in saved["benchmarks"]:
        for key in ("min", "max", "mean", "median"):
            benchmark["stats"][key] /= 1000
    path.write_text(json.dumps(saved))
    try:
        outcome = timed.project.run(
            "suites/s.yaml::m[fp32]::throughput",
            "--benchmark-compare=0001",
            "--benchmark-compare-fail=median:200%",
        )
    finally:
        path.write_text(text)
    assert outcome.code != 0
    assert "Performance has regressed" in outcome.text
    assert "m[fp32]::decode[1x8]" in outcome.text.partition("Performance has regressed")[2]


def test_a_histogram_is_drawn_or_its_lack_is_explained(timed: Timed) -> None:
    node = "suites/s.yaml::m[fp32]::throughput"
    outcome = timed.project.run(node, "--benchmark-histogram=drawn")
    drawn = list(timed.project.folder.glob("drawn*.svg"))
    if importlib.util.find_spec("pygal") is None:
        assert "pygal" in outcome.text
        assert not drawn
        return
    assert outcome.code == 0, outcome.text
    assert len(drawn) == 8  # a group per kind and workload
    assert any("decode" in path.read_text() for path in drawn)


def test_benchmarks_may_be_disabled_and_the_measurement_is_unchanged(timed: Timed) -> None:
    outcome = timed.project.run("suites/s.yaml::m[fp32]::throughput", "--benchmark-disable")
    assert outcome.code == 0, outcome.text
    assert "benchmark 'm" not in outcome.text
    records = find_records(timed.project.last_run("s"))
    assert list(records["m[fp32]::throughput"].samples) == list(WORKLOADS)


def test_the_values_have_their_intervals_over_processes(timed: Timed) -> None:
    value = timed.records["m[bf16]::throughput"].values["decode_tokens_per_s[2x16]"]
    assert value.n == 2
    assert value.interval is not None
    low, high = value.interval
    assert low < value.value < high
