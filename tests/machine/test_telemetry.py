"""Telemetry: the real sampler on this CPU, arithmetic on given readings, a stand-in for NVML."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from harness.machine.telemetry import (
    BoardWatch,
    CpuTimes,
    Telemetry,
    count_other_cores,
    read_cpu_times,
)
from harness.run.make_record import judge_telemetry
from tests.support.nvml import install_nvml

BOARD = "GPU-00000000-0000-0000-0000-000000000000"


def test_the_machine_is_sampled_from_the_start() -> None:
    summary = Telemetry(None, None, threads=2).start().stop()
    assert summary["samples"] >= 1
    assert summary["cpu"]["threads"] == 2
    assert summary["cpu"]["cores"] >= 1
    assert len(summary["cpu"]["load_average"]) == 3
    assert "gpu" not in summary


def test_other_cores_are_what_is_busy_less_what_is_ours() -> None:
    """Ten seconds in which 25 core seconds went by, five of them ours."""
    before, after = CpuTimes(100.0, 1000.0, 50.0), CpuTimes(110.0, 1025.0, 55.0)
    assert count_other_cores(before, after) == 2.0
    assert count_other_cores(before, CpuTimes(110.0, 1004.9, 55.0)) == 0.0  # clocks differ a little
    assert count_other_cores(before, CpuTimes(110.0, 1025.0, None)) is None
    assert count_other_cores(before, CpuTimes(100.0, 1000.0, 50.0)) is None


def test_processor_time_is_that_of_the_processes_asked_for() -> None:
    """Not while one has ended: its share would count as others'."""
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    first = read_cpu_times({os.getpid(), worker.pid})
    second = read_cpu_times({os.getpid(), worker.pid})
    worker.communicate(b"\n")
    assert first.own_s is not None
    assert second.own_s is not None
    assert first.own_s <= second.own_s
    assert first.at <= second.at
    assert first.busy_s >= first.own_s > 0
    assert read_cpu_times({os.getpid(), worker.pid}).own_s is None


def test_without_a_driver_the_gpu_is_unavailable_with_the_reason() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        expected = str(error)
    else:
        pytest.skip("this machine has a driver")
    summary = Telemetry(None, BOARD, threads=1).start().stop()
    assert summary["gpu"] == {"unavailable": expected}


def make_board(pids: tuple[int, ...] = (77,), mask: int = 0, **other: Any) -> dict[str, Any]:
    """A board on which these processes compute; its SM clock rises by 100 MHz a reading."""
    sm = iter(range(1000, 2000, 100))
    return {
        "UUID": BOARD,
        "ClockInfo": lambda kind: next(sm) if kind == pynvml.NVML_CLOCK_SM else 2600,
        "PowerUsage": 412_000,
        "Temperature": lambda _: 61,
        "CurrentClocksThrottleReasons": mask,
        "ComputeRunningProcesses": [SimpleNamespace(pid=pid) for pid in pids],
        "PowerManagementLimit": 700_000,
        **other,
    }


def watch(monkeypatch: pytest.MonkeyPatch, board: dict[str, Any], samples: int = 3) -> Any:
    nvml = install_nvml(monkeypatch, board)
    reader = BoardWatch(BOARD, {77})
    for _ in range(samples):
        reader.sample()
    found = reader.stop()
    assert nvml.open_sessions == 0
    return found


def test_a_board_s_readings_are_summarised_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch, make_board()) == {
        "sm_mhz": {"min": 1000, "median": 1100, "max": 1200},
        "memory_mhz": {"min": 2600, "median": 2600, "max": 2600},
        "power_w": {"min": 412, "median": 412, "max": 412},
        "temperature_c": {"min": 61, "median": 61, "max": 61},
        "power_limit_w": 700,
        "throttled": {},
        "other_processes": 0,
    }


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (pynvml.nvmlClocksThrottleReasonSwPowerCap, "software power cap"),
        (pynvml.nvmlClocksThrottleReasonHwSlowdown, "hardware slowdown"),
        (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, "software thermal slowdown"),
        (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "hardware thermal slowdown"),
        (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "hardware power brake"),
        (pynvml.nvmlClocksThrottleReasonGpuIdle, None),
        (pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting, None),
    ],
)
def test_each_bit_of_the_mask_has_nvml_s_meaning(
    monkeypatch: pytest.MonkeyPatch, mask: int, reason: str | None
) -> None:
    found = watch(monkeypatch, make_board(mask=mask))
    assert found["throttled"] == ({} if reason is None else {reason: 1.0})


@pytest.mark.parametrize(
    ("pids", "others"),
    [
        ((77,), 0),
        ((77, 5), 1),
        ((5,), 0),  # another namespace's number for our process
        ((5, 6), 1),
        ((), None),  # the list is unavailable
    ],
)
def test_processes_that_are_not_ours_are_counted(
    monkeypatch: pytest.MonkeyPatch, pids: tuple[int, ...], others: int | None
) -> None:
    assert watch(monkeypatch, make_board(pids))["other_processes"] == others


@pytest.mark.parametrize(("strangers", "others"), [((), 0), ((5,), 1)])
def test_who_started_this_process_is_no_stranger(
    monkeypatch: pytest.MonkeyPatch, strangers: tuple[int, ...], others: int
) -> None:
    """A notebook, or a pytest whose earlier tests left a CUDA context, that runs the harness."""
    install_nvml(monkeypatch, make_board((77, os.getppid(), *strangers)))
    summary = Telemetry(77, BOARD, threads=1).start().stop()
    assert summary["gpu"]["other_processes"] == others
    assert judge_telemetry({"gpu": summary["gpu"]}).status == ("invalid" if others else "ok")


def test_a_fact_that_is_refused_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    board = make_board()
    del board["CurrentClocksThrottleReasons"], board["PowerUsage"]
    found = watch(monkeypatch, board)
    assert found["throttled"] is None
    assert "power_w" not in found
    assert found["temperature_c"]["median"] == 61


def test_a_board_that_is_gone_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, {"UUID": "GPU-another"})
    assert list(found) == ["unavailable"]
