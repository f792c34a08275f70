"""Which cells a suite and a selection give, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.catalog import UnknownNameError, load_measurement
from harness.suite.cells import (
    Selection,
    build_cells,
    check_selection,
    has_paired_values,
)
from harness.suite.models import Suite
from tests.support.suite_files import load_parts


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Two models and three precisions, the reference the second of them."""
    return load_parts(
        tmp_path,
        models="models: [{name: a, source: org/a}, {name: b, source: org/b}]",
        precisions="precisions: [nf4, fp32, {name: dq, use: nf4, double_quant: true}]",
        measure="measure: {footprint: , throughput: , memory: , mmlu: }",
    )


def ids(suite: Suite, selection: Selection | None = None) -> list[str]:
    return [cell.id for cell in build_cells(suite, selection)]


def test_cells_go_model_by_model_the_reference_first(suite: Suite) -> None:
    assert ids(suite) == ["a[fp32]", "a[nf4]", "a[dq]", "b[fp32]", "b[nf4]", "b[dq]"]


def test_without_a_reference_the_order_is_the_suites(tmp_path: Path) -> None:
    suite = load_parts(tmp_path, reference=None, precisions="precisions: [nf4, fp32]")
    assert ids(suite) == ["m[nf4]", "m[fp32]"]


def test_what_needs_a_fresh_process_is_measured_first_the_rest_in_order(suite: Suite) -> None:
    [cell, *_] = build_cells(suite)
    names = [measurement.name for measurement in cell.measurements]
    assert names == ["memory", "footprint", "throughput", "mmlu"]
    assert load_measurement("memory").fresh_process


def test_cells_are_hashable_and_equal_by_content(suite: Suite) -> None:
    assert len({*build_cells(suite), *build_cells(suite)}) == 6


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(precisions=("nf4",)), ["a[nf4]", "b[nf4]"]),
        (Selection(precisions=("dq", "fp32")), ["a[fp32]", "a[dq]", "b[fp32]", "b[dq]"]),
        (Selection(models=("b",)), ["b[fp32]", "b[nf4]", "b[dq]"]),
        (Selection(precisions=("dq",), models=("a",)), ["a[dq]"]),
        (Selection(models=("elsewhere",)), []),
    ],
)
def test_a_selection_picks_exact_names(
    suite: Suite, selection: Selection, expected: list[str]
) -> None:
    assert ids(suite, selection) == expected


def test_selected_measurements_keep_their_order(suite: Suite) -> None:
    cells = build_cells(suite, Selection(measures=("mmlu", "memory")))
    assert {tuple(m.name for m in cell.measurements) for cell in cells} == {("memory", "mmlu")}


def test_a_suite_with_none_of_the_selected_measurements_has_no_cells(suite: Suite) -> None:
    assert build_cells(suite, Selection(measures=("perplexity",))) == ()


def test_a_task_has_values_that_compare_with_the_reference() -> None:
    assert has_paired_values("mmlu")


def test_a_name_that_one_of_the_suites_has_is_accepted(suite: Suite, tmp_path: Path) -> None:
    other = load_parts(tmp_path)
    check_selection([suite, other], Selection(("dq",), ("m", "a"), ("mmlu",)))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(precisions=("nf5",)), "unknown precision 'nf5'; did you mean 'nf4'"),
        (Selection(models=("a", "c")), "unknown model 'c'. Known: a, b"),
        (Selection(measures=("mlu",)), "unknown measurement 'mlu'; did you mean 'mmlu'"),
    ],
)
def test_a_name_that_no_suite_has_is_refused(
    suite: Suite, selection: Selection, message: str
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        check_selection([suite], selection)
    assert message in str(caught.value)
