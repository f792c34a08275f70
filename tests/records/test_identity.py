"""identity: what a number depends on, in three kinds, and what does not count."""

from __future__ import annotations

from typing import Any

import pytest

from harness.records.identity import (
    Difference,
    find_differences,
    identify,
    identify_series,
    list_differing,
    list_outcomes,
    list_protocol,
    list_suspects,
)
from harness.records.record import Record
from tests.support.records import ENVIRONMENT, make_choices, make_record, make_speeds

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
    assert (found["device"], found["tokenizer"], found["protocol.shots"]) == ("cuda", None, 5)
    assert found["weights"] == "w"
    assert found["precision.block"] == 64
    assert found["attention"] == "sdpa"
    assert found["libraries.torch"] == "2.13.0"
    assert "seconds" not in found  # attested, and says how long it took
    assert not any(name.startswith(("gpu", "cpu")) for name in found)


def test_speed_depends_on_its_own_board_or_processor() -> None:
    on_gpu = identify(GPU, on(make_speeds(9.0), "cuda:1"))
    assert (on_gpu["gpu.name"], on_gpu["gpu.memory_bytes"]) == ("H200", 9)
    assert on_gpu["gpu.driver"] == "560"
    assert (on_gpu["gpu.power_limit_w"], on_gpu["gpu.max_sm_mhz"]) == (700.0, 1980)
    renumbered = {**GPU, "gpu": {**GPU["gpu"], "used": 0}}  # by CUDA_VISIBLE_DEVICES, say
    assert identify(renumbered, on(make_speeds(9.0), "cuda:1"))["gpu.name"] == "A100"
    on_cpu = identify(ENVIRONMENT, make_speeds(9.0))
    assert on_cpu["cpu.name"] == "Xeon"
    assert (on_cpu["cpu.usable_cores"], on_cpu["cpu.quota_cores"], on_cpu["threads"]) == (
        2,
        None,
        2,
    )


def test_attention_kernels_are_under_test_and_those_of_the_measurement_count() -> None:
    """Those of a speed, for which another kernel may be chosen, are in its own protocol."""
    attested = {"attention_kernels": {"prompt": "flash", "step": "flash"}}
    quality = identify(GPU, on(make_choices(), "cuda:0", attested=attested))
    assert quality["attention_kernels.prompt"] == "flash"
    made = on(make_speeds(9.0), "cuda:0", attested=attested)
    by_workload = {
        "1": {"prompt": "cudnn", "step": "flash"},
        "8": {"prompt": "cudnn", "step": None},
        "1 compiled": {"prompt": "cudnn, flash"},
    }
    own = {**made.protocol, "attention_kernels": by_workload}
    speed = made.model_copy(update={"protocol": {**own, "cudnn_attention": True}})
    without = {**own, "attention_kernels": attested["attention_kernels"], "cudnn_attention": False}
    other = made.model_copy(update={"protocol": without})
    assert list_differing(identify(GPU, speed), identify(GPU, other)) == (
        "attention_kernels.prompt",
    )
    facts = identify(GPU, speed)
    assert facts["attention_kernels.prompt"] == "cudnn, flash"
    assert facts["attention_kernels.step"] == "flash"
    assert list_protocol(speed) == list_protocol(other), "no question, so nothing is refused"
    assert identify(GPU, on(make_choices(), "cpu"))  # an older record, or another engine's


def test_random_weights_are_identified_by_their_source() -> None:
    assert identify(ENVIRONMENT, make_choices())["weights"] == "x"


def test_a_missing_fact_is_no_difference_from_none() -> None:
    assert find_differences({"a": None, "b": 1}, {"b": 1}) == ()
    [found] = find_differences({"a": "x" * 30}, {"c": None})
    assert str(found) == f"a ({'x' * 12}… → none)"


def test_a_series_goes_on_while_the_question_is_the_same() -> None:
    record = on(make_choices(), "cpu", weights_sha256="w", declared={"use": "nf4"})
    assert identify_series(record) == {"tokenizer": None, "protocol.shots": 5}
    suspects = list_suspects(ENVIRONMENT, record)
    assert (suspects["weights"], suspects["precision.use"]) == ("w", "nf4")
    assert suspects["torch"] == "2.13.0"


def test_an_outcome_is_an_answer_and_no_likelihood() -> None:
    items = {"right": "10", "chosen": "AB", "log_likelihoods": [[-1.0], [-2.0]], "tied": "00"}
    assert list_outcomes(make_record("mmlu", items=items)) == {"right": "10", "chosen": "AB"}
    both = {**items, "right_norm": "11", "chosen_norm": "BB"}
    assert list_outcomes(make_record("hellaswag", items=both), "acc_norm") == {
        "right_norm": "11",
        "chosen_norm": "BB",
    }


def test_a_change_is_named_in_a_few_words() -> None:
    def short(*change: Any) -> str:
        return Difference(*change).short

    assert short("libraries.bitsandbytes", "0.49", "0.50") == "bitsandbytes 0.49 → 0.50"
    assert short("weights", "a" * 64, "b" * 64) == "weights"
    assert short("weights", "sha256:1", "sha256:2") == "weights"
    assert short("precision.double_quant", None, True) == "precision.double_quant none → True"


@pytest.mark.parametrize(
    ("measurement", "name"),
    [
        ("mmlu", "cost"),
        ("gsm8k", "questions"),
        ("perplexity", "batch_size"),
        ("divergence", "distribution"),
        ("side_by_side", "cost"),
    ],
)
def test_how_items_were_computed_is_no_outcome(measurement: str, name: str) -> None:
    record = make_record(measurement, items={"right": "10", name: 3})
    assert name not in list_outcomes(record)


@pytest.mark.parametrize(
    ("measurement", "how"),
    [
        ("memory", {"method": "a"}),
        ("throughput", {"processes": 1, "batch_sizes": [1], "roofline": True}),
        ("perplexity", {"text": {"path": "a.txt"}}),  # the text's hash is there too
        ("lambada", {"data": {"path": "a.jsonl"}}),
    ],
)
def test_how_something_was_measured_is_not_what(measurement: str, how: dict[str, Any]) -> None:
    record = make_record(measurement, protocol={**how, "context": 1})
    assert list_protocol(record) == {"context": 1}


def test_a_metric_that_is_unknown_here_has_only_outcomes() -> None:
    """A run file may be older or newer than the metrics."""
    assert list_outcomes(make_record("gone", items={"cost": 1})) == {"cost": 1}


def test_differences_are_listed_by_name() -> None:
    assert list_differing({"context": 1, "b": None, "a": 3}, {"context": 2}) == ("a", "context")
