"""telemetry: the real sampler on this CPU, rules on summaries, and NVML where it is not there.

Only what cannot run without a board is played by a stand-in: NVML's own handful of functions.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from harness.machine.telemetry import INTERVAL_S, Telemetry, judge_telemetry
from harness.timing.energy import read_board_energy_j, read_energy_j

BOARD = "GPU-00000000-0000-0000-0000-000000000000"
SPIN = "while True: pass"


def wait_for_samples(telemetry: Telemetry, count: int) -> None:
    while len(telemetry._taken) < count:
        time.sleep(INTERVAL_S)


def test_the_machine_is_sampled_several_times() -> None:
    telemetry = Telemetry(None, None, threads=2).start()
    wait_for_samples(telemetry, 4)
    summary = telemetry.stop()
    assert summary["samples"] >= 4
    assert summary["interval_s"] >= INTERVAL_S * 0.9
    assert summary["cpu"]["threads"] == 2
    assert summary["cpu"]["cores"] >= 1
    assert len(summary["cpu"]["load_average"]) == 3
    assert "gpu" not in summary


def test_a_busy_process_counts_as_another_unless_it_is_the_worker() -> None:
    """A real one, which takes a core; what else runs here is in both readings."""

    def read(worker: int | None) -> float:
        telemetry = Telemetry(worker, None, threads=1).start()
        wait_for_samples(telemetry, 12)
        return float(telemetry.stop()["cpu"]["other_cores"])

    busy = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        as_worker, as_other = read(busy.pid), read(None)
    finally:
        busy.kill()
        busy.wait()
    assert as_other > 0.2
    assert as_other > as_worker


def test_the_end_of_the_worker_leaves_its_share_unknown() -> None:
    worker = subprocess.Popen([sys.executable, "-c", SPIN])
    telemetry = Telemetry(worker.pid, None, threads=1).start()
    worker.kill()
    worker.wait()
    assert telemetry.stop()["cpu"]["other_cores"] is None


def cpu(cores: int, threads: int | None, other: float | None) -> dict[str, Any]:
    return {"cpu": {"cores": cores, "threads": threads, "other_cores": other}}


@pytest.mark.parametrize(
    ("summary", "status"),
    [
        (cpu(2, 2, 0.0), "ok"),
        (cpu(2, 2, 0.2), "ok"),
        (cpu(2, 2, 0.21), "flagged"),
        (cpu(8, 2, 6.1), "ok"),  # six cores are left for others
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


# NVML


def test_without_a_driver_it_is_unavailable_and_nothing_else_suffers() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        expected = str(error)
    else:
        pytest.skip("this machine has a driver")
    telemetry = Telemetry(None, BOARD, threads=1).start()
    summary = telemetry.stop()
    assert summary["gpu"] == {"unavailable": expected}
    assert judge_telemetry({"gpu": summary["gpu"]}).status == "ok"
    assert read_board_energy_j(BOARD) is None


def test_a_cpu_has_no_energy_counter() -> None:
    assert read_energy_j("cpu") is None


class Board:
    """What NVML answers of one board; ``denied`` names functions that are not permitted."""

    def __init__(self, pids: list[int], mask: int = 0, denied: tuple[str, ...] = ()) -> None:
        self.pids, self.mask, self.denied = pids, mask, denied
        self.sm = iter(range(1000, 2000, 100))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetClockInfo": lambda _, kind: (
                next(self.sm) if kind == pynvml.NVML_CLOCK_SM else 2600
            ),
            "nvmlDeviceGetPowerUsage": lambda _: 412_000,
            "nvmlDeviceGetTemperature": lambda *_: 61,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: self.mask,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [
                SimpleNamespace(pid=pid) for pid in self.pids
            ],
            "nvmlDeviceGetPowerManagementLimit": lambda _: 700_000,
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: 12_500,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, self.deny if name in self.denied else answer)

    def deny(self, *_: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)


def watch(board: Board, monkeypatch: pytest.MonkeyPatch, worker: int = 77) -> dict[str, Any]:
    board.install(monkeypatch)
    monkeypatch.setattr(
        "harness.machine.telemetry._used_s", lambda _: 0.0
    )  # 77 is no process of ours
    telemetry = Telemetry(worker, BOARD, threads=1).start()
    wait_for_samples(telemetry, 3)
    return dict(telemetry.stop()["gpu"])


def test_a_board_s_readings_are_summarised_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(Board([77]), monkeypatch)
    assert found["sm_mhz"]["min"] == 1000
    assert found["sm_mhz"]["max"] > found["sm_mhz"]["median"] > 1000
    assert found["memory_mhz"] == {"min": 2600, "median": 2600, "max": 2600}
    assert found["power_w"]["median"] == 412
    assert found["temperature_c"]["max"] == 61
    assert found["power_limit_w"] == 700
    assert found["throttled"] == {}
    assert found["other_processes"] == 0
    assert read_board_energy_j(BOARD) == 12.5


@pytest.mark.parametrize(
    ("mask", "reason", "status"),
    [
        (pynvml.nvmlClocksThrottleReasonSwPowerCap, "software power cap", "flagged"),
        (pynvml.nvmlClocksThrottleReasonHwSlowdown, "hardware slowdown", "invalid"),
        (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, "software thermal slowdown", "invalid"),
        (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "hardware thermal slowdown", "invalid"),
        (
            pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
            "hardware power brake",
            "invalid",
        ),
        (pynvml.nvmlClocksThrottleReasonGpuIdle, None, "ok"),
        (pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting, None, "ok"),
    ],
)
def test_each_bit_says_what_nvml_means_by_it(
    monkeypatch: pytest.MonkeyPatch, mask: int, reason: str | None, status: str
) -> None:
    found = watch(Board([77], mask), monkeypatch)
    assert found["throttled"] == ({} if reason is None else {reason: 1.0})
    assert judge_telemetry({"gpu": found}).status == status


@pytest.mark.parametrize(
    ("pids", "others"),
    [
        ([77], 0),
        ([77, 5], 1),
        ([5], 0),  # another namespace's number for our process
        ([5, 6], 1),
        ([], None),  # the list is not to be had
    ],
)
def test_processes_besides_ours_are_counted(
    monkeypatch: pytest.MonkeyPatch, pids: list[int], others: int | None
) -> None:
    assert watch(Board(pids), monkeypatch)["other_processes"] == others


def test_what_is_denied_is_left_out_and_the_rest_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetPowerUsage")
    found = watch(Board([77], denied=denied), monkeypatch)
    assert found["throttled"] is None
    assert "power_w" not in found
    assert found["temperature_c"]["median"] == 61
    assert judge_telemetry({"gpu": found}).status == "ok"
