"""Rules on summaries of telemetry: which of them leave a number in doubt."""

from __future__ import annotations

from typing import Any

import pytest

from harness.run.make_record import judge_telemetry


def cpu(cores: int, threads: int | None, other: float | None) -> dict[str, Any]:
    return {"cpu": {"cores": cores, "threads": threads, "other_cores": other}}


@pytest.mark.parametrize(
    ("summary", "status"),
    [
        (cpu(2, 2, 0.0), "ok"),
        (cpu(2, 2, 0.2), "ok"),
        (cpu(2, 2, 0.21), "flagged"),
        (cpu(8, 2, 6.1), "ok"),  # six cores remain for others
        (cpu(8, 2, 6.3), "flagged"),
        (cpu(2, 2, None), "ok"),
        (cpu(2, None, 1.0), "ok"),
        ({}, "ok"),
        ({"gpu": {}, **cpu(8, 8, 3.0)}, "ok"),  # one thread launches the kernels
        ({"gpu": {}, **cpu(8, 8, 7.2)}, "flagged"),
    ],
)
def test_others_count_where_they_want_the_cores_that_we_compute_on(
    summary: dict[str, Any], status: str
) -> None:
    found = judge_telemetry(summary)
    assert found.status == status
    assert (status == "flagged") == any("other processes used" in r for r in found.reasons)


def test_a_slowdown_is_invalid_and_a_power_cap_flagged() -> None:
    heat = {"gpu": {"throttled": {"hardware thermal slowdown": 0.25}}}
    assert judge_telemetry(heat).status == "invalid"
    assert judge_telemetry(heat).reasons == (
        "the GPU was throttled: hardware thermal slowdown in 25% of the samples",
    )
    for reason in ("hardware slowdown", "software thermal slowdown", "hardware power brake"):
        assert judge_telemetry({"gpu": {"throttled": {reason: 0.01}}}).status == "invalid"
    cap = {"gpu": {"throttled": {"software power cap": 1.0}, "power_limit_w": 350.0}}
    assert judge_telemetry(cap).status == "flagged"
    assert judge_telemetry(cap).reasons == (
        "the GPU's power was capped at 350 W in 100% of the samples",
    )
    assert judge_telemetry({"gpu": {"throttled": None, "other_processes": None}}).status == "ok"


def test_another_process_on_the_gpu_is_invalid() -> None:
    assert judge_telemetry({"gpu": {"other_processes": 0}}).status == "ok"
    found = judge_telemetry({"gpu": {"other_processes": 2}})
    assert (found.status, found.reasons) == ("invalid", ("2 other processes used the GPU",))


def test_an_unavailable_gpu_is_no_reason_for_doubt() -> None:
    assert judge_telemetry({"gpu": {"unavailable": "no driver"}}).status == "ok"
