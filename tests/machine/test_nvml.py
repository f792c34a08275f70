"""NVML's answers; only NVML itself is a stand-in."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from harness.machine.nvml import NvmlSession, ask_board, describe_gpus, read_used_bytes
from tests.support.nvml import FakeNvml, install_nvml

H200: dict[str, Any] = {
    "UUID": "GPU-11111111-2222",
    "Name": "NVIDIA H200",
    "MemoryInfo": SimpleNamespace(total=150_000_000_000, used=7),
    "CudaComputeCapability": (9, 0),
    "MaxClockInfo": lambda clock: {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 3201}[clock],
}


def test_gpus_are_described_without_their_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """One board that knows no MIG and no power limit."""
    nvml = install_nvml(monkeypatch, H200)
    facts = describe_gpus()
    (device,) = facts["devices"]
    assert facts["driver"] == "570.1"
    assert device["name"] == "NVIDIA H200"
    assert device["memory_bytes"] == 150_000_000_000
    assert device["compute_capability"] == "9.0"
    assert (device["max_sm_mhz"], device["max_memory_mhz"]) == (1980, 3201)
    assert (device["power_limit_w"], device["mig"]) == (None, None)
    assert len(device["uuid_hash"]) == 16
    assert "GPU-1111" not in json.dumps(facts)
    assert nvml.open_sessions == 0


def test_unavailable_gpus_are_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: FakeNvml) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    install_nvml(monkeypatch, H200)
    monkeypatch.setattr(FakeNvml, "nvmlInit", refuse)
    expected = str(pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    assert describe_gpus() == {"unavailable": expected}
    assert read_used_bytes() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert describe_gpus() == {"unavailable": "nvidia-ml-py is not installed"}
    assert ask_board("GPU-11111111-2222", "nvmlDeviceGetName") is None


def test_the_real_nvml_gives_devices_or_a_reason() -> None:
    facts = describe_gpus()
    assert facts.get("devices") or facts.get("unavailable")


def test_one_board_is_asked_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, {"UUID": "GPU-slow", "PowerUsage": 1}, {"UUID": "GPU-fast"})
    assert ask_board("GPU-slow", "nvmlDeviceGetPowerUsage") == 1
    assert ask_board("GPU-fast", "nvmlDeviceGetPowerUsage") is None  # refused, and not 0
    assert ask_board("GPU-gone", "nvmlDeviceGetPowerUsage") is None


def test_a_board_that_gives_no_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, {"UUID": "GPU-slow"}, H200)
    assert read_used_bytes() == {"GPU-11111111-2222": 7}


def test_sessions_may_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = install_nvml(monkeypatch, H200)
    with NvmlSession() as session:
        with NvmlSession() as other:
            assert len(other.list_boards()) == 1
            assert nvml.open_sessions == 2
        assert session.find_board("GPU-11111111-2222")("nvmlDeviceGetName") == "NVIDIA H200"
    assert nvml.open_sessions == 0
