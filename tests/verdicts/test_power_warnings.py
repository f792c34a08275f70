"""Power warnings: limits that a run cannot decide are named before the long work starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.catalog import load_measurement
from harness.suite.models import Limit, MeasurementSpec
from harness.verdicts.power_warnings import (
    announce_items,
    announce_margins,
    announce_processes,
)
from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import FAST_THROUGHPUT, Project


def limit(metric: str, **bounds: float) -> Limit:
    return Limit(precision=("nf4",), model=("m",), metric=metric, position="s.yaml:9:5", **bounds)


DROP = limit("mmlu.accuracy_drop", max=0.01)


@pytest.mark.parametrize(("items", "warnings"), [(1000, 1), (4992, 1), (4993, 0), (15_000, 0)])
def test_a_drop_finer_than_the_items_pass_is_announced(items: int, warnings: int) -> None:
    """f' = 0.04 + √(0.04² + 0.01²) - 0.01² = 0.0811; (1.6449·√f' + 0.8416·√0.08)²/0.01²."""
    texts = list(announce_items([DROP], "m", "nf4", "mmlu", items))
    assert len(texts) == warnings
    if items == 1000:
        assert texts[0].startswith("s.yaml:9:5: mmlu.accuracy_drop max 0.01 is finer than 1,000")
        assert "they pass 0.023 or more in 4 of 5 runs; 4,993 items pass this limit" in texts[0]


@pytest.mark.parametrize(
    "other",
    [
        limit("mmlu.flip_rate", max=0.01),
        limit("mmlu.acc", min=0.5),
        limit("mmlu.accuracy_drop[anatomy]", max=0.01),
        limit("perplexity.ratio", max=1.01),
    ],
)
def test_what_the_number_of_items_does_not_tell_is_not_announced(other: Limit) -> None:
    assert list(announce_items([other], "m", "nf4", other.family, 10)) == []


def test_a_limit_is_announced_for_its_own_cells_only() -> None:
    assert list(announce_items([DROP], "m", "int8", "mmlu", 10)) == []
    assert list(announce_items([DROP], "other", "nf4", "mmlu", 10)) == []
    assert list(announce_items([DROP], "m", "nf4", "hellaswag", 10)) == []


@pytest.mark.parametrize(("processes", "warnings"), [(1, 1), (3, 0)])
def test_a_speed_limit_needs_several_processes(processes: int, warnings: int) -> None:
    options = load_measurement("throughput").options(processes=processes)
    spec = MeasurementSpec(name="throughput", options=options)
    speed, size = (
        limit("throughput.decode_speedup[1]", min=1.0),
        limit("footprint.size_ratio", max=1),
    )
    texts = list(announce_processes([speed, size], "m", "nf4", spec))
    assert len(texts) == warnings
    assert all("cannot be decided by one process" in text for text in texts)


SUITE = f"""name: s
reference: fp32
models: [{{name: m, source: ../model}}]
precisions: [fp32, bf16]
measure:
  mmlu: {{data: ../quiz, shots: 0}}
  {FAST_THROUGHPUT}
limits:
  - {{precision: bf16, metric: mmlu.accuracy_drop, max: 0.02}}
  - {{precision: bf16, metric: "throughput.decode_speedup[1]", min: 0.5}}
"""


@pytest.mark.e2e
def test_a_run_says_so_before_the_first_number(tmp_path: Path) -> None:
    project = Project(tmp_path)
    write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    question = '"Which?",a,b,c,d,B\n'
    project.write("quiz/test/one_test.csv", "".join(f'"{i} {question[1:]}' for i in range(12)))
    project.write("quiz/dev/one_dev.csv", question)
    project.write("suites/s.yaml", SUITE)
    outcome = project.run("-v")
    first = outcome.text.index("PASSED")
    speeds = outcome.text.index("throughput.decode_speedup[1] min 0.5 cannot be decided by one")
    assert speeds < first, outcome.text
    assert outcome.text.count("mmlu.accuracy_drop max 0.02 is finer than 12 items can show") == 1
    warned = outcome.text.index("is finer than 12 items can show")
    assert warned < outcome.text.index("m[fp32]::mmlu PASSED")


@pytest.mark.parametrize(("items", "announced"), [(250, True), (856, True), (857, False)])
def test_a_margin_that_too_few_items_can_pass_is_announced_by_hand(
    items: int, announced: bool
) -> None:
    """f' = 0.005 + sqrt(0.005² + 0.01²) - 0.01² = 0.01608; (1.6449·√f' + 0.8416·0.1)²/0.01²."""
    found = list(announce_margins("mmlu", items))
    assert bool(found) is announced
    if announced:
        assert found[0].startswith(f"mmlu.acc: {items} items cannot show")
        assert "857 items pass in 4 of 5 runs" in found[0]


def test_a_measurement_without_answers_has_no_such_margin() -> None:
    assert list(announce_margins("perplexity", 3)) == []
