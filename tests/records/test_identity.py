"""identity: what a number depends on, in three kinds, and what does not count."""

from __future__ import annotations

from typing import Any

import pytest

from harness.records.identity import (
    differing_fields,
    find_differences,
    identify,
    identify_series,
    list_outcomes,
)
from harness.records.record import Record
from tests.support.records import ENVIRONMENT, make_choices, make_speeds

GPU = {
    **ENVIRONMENT,
    "gpu": {
        "driver": "560",
        "devices": [
            {"name": "A100", "power_limit_w": 400.0},
            {"name": "H200", "memory_bytes": 9, "power_limit_w": 700.0, "max_sm_mhz": 1980},
        ],
    },
}


def on(record: Record, device: str, **facts: Any) -> Record:
    return record.model_copy(
        update={"cell": record.cell.model_copy(update={"device": device, **facts})}
    )


def test_quality_depends_on_no_machine() -> None:
    cell = {"declared": {"block": 64}, "attested": {"attention": "sdpa", "seconds": 3}}
    found = identify(GPU, on(make_choices(), "cuda:1", weights_sha256="w", **cell))
    assert found.question == {"device": "cuda", "tokenizer": None, "protocol.shots": 5}
    assert found.under_test["weights"] == "w"
    assert found.under_test["precision.block"] == 64
    assert found.under_test["attention"] == "sdpa"
    assert found.under_test["libraries.torch"] == "2.13.0"
    assert "seconds" not in found.facts  # attested, and says how long it took
    assert found.conditions == {}


def test_speed_depends_on_its_own_board_or_processor() -> None:
    on_gpu = identify(GPU, on(make_speeds(9.0), "cuda:1"))
    assert (on_gpu.question["gpu.name"], on_gpu.question["gpu.memory_bytes"]) == ("H200", 9)
    assert on_gpu.under_test["gpu.driver"] == "560"
    assert on_gpu.conditions == {
        "gpu.power_limit_w": 700.0,
        "gpu.max_sm_mhz": 1980,
        "gpu.max_memory_mhz": None,
    }
    on_cpu = identify(ENVIRONMENT, make_speeds(9.0))
    assert on_cpu.question["cpu.name"] == "Xeon"
    assert on_cpu.conditions == {"cpu.usable_cores": 2, "cpu.quota_cores": None, "threads": 2}


def test_random_weights_are_identified_by_their_source() -> None:
    assert identify(ENVIRONMENT, make_choices()).under_test["weights"] == "x"


def test_a_missing_fact_is_no_difference_from_none() -> None:
    assert find_differences({"a": None, "b": 1}, {"b": 1}) == ()
    [found] = find_differences({"a": "x" * 30}, {"c": None})
    assert str(found) == f"a ({'x' * 12}… → none)"


def test_a_series_goes_on_over_new_libraries_and_ends_with_new_weights() -> None:
    record = on(make_choices(), "cpu", weights_sha256="w")
    assert identify_series(record) == {"weights": "w", "tokenizer": None, "protocol.shots": 5}


@pytest.mark.parametrize("name", ["cost", "batch_size", "distribution", "questions"])
def test_how_items_were_computed_is_no_outcome(name: str) -> None:
    assert list_outcomes({"right": "10", name: 3}) == {"right": "10"}


def test_how_memory_was_read_is_no_part_of_what_was_measured() -> None:
    assert differing_fields({"method": "a", "context": 1}, {"method": "b", "context": 1}) == []
    assert differing_fields({"context": 1, "b": None}, {"context": 2}) == ["context"]


def test_a_file_s_name_does_not_count_beside_its_hash_and_neither_does_how_often() -> None:
    ours = {"text": {"path": "a.txt"}, "text_sha256": "x", "processes": 1, "batch_sizes": [1]}
    theirs = {"text": {"path": "b.txt"}, "text_sha256": "x", "processes": 9, "batch_sizes": [1, 8]}
    assert differing_fields(ours, theirs) == []
    assert differing_fields(ours, {**theirs, "text_sha256": "y"}) == ["text_sha256"]
    assert differing_fields({"text": "a"}, {"text": "b"}) == ["text"]
