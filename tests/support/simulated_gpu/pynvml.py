"""NVML of a machine with the boards of `simulated_cuda`; answers follow the clock, not work.

The board draws 200 W all the time, runs at 1,500 MHz and computes for the process that asks. What
it lacks it refuses, as a real one does. SIMULATED_NVML, a JSON mapping, has it answer otherwise, by
what follows "nvmlDeviceGet".
"""

# ruff: noqa: N802 - NVML's own names

from __future__ import annotations

import json
import os
import sys
import time
from collections import namedtuple
from typing import Any

NAME = "Simulated GPU"
BOARD = int(os.environ.get("SIMULATED_BOARD", "0"))  # the last one
UUIDS = [f"GPU-5a5a5a5a-0000-4000-8000-00000000000{index + 1}" for index in range(BOARD + 1)]
MEMORY_BYTES = 24 << 30
POWER_W = 200
OTHERS_BYTES = 300 << 20  # of the board, in use before anybody came

_Memory = namedtuple("_Memory", "total free used")
_Process = namedtuple("_Process", "pid usedGpuMemory")


class NVMLError(Exception):
    """Every refusal."""


def nvmlInit() -> None:
    pass


def nvmlShutdown() -> None:
    pass


def nvmlSystemGetDriverVersion() -> str:
    return "580.1"


def nvmlSystemGetCudaDriverVersion() -> int:
    return 13000


def nvmlDeviceGetCount() -> int:
    return len(UUIDS)


def nvmlDeviceGetHandleByIndex(index: int) -> str:
    if index >= len(UUIDS):
        raise NVMLError("Invalid Argument")
    return UUIDS[index]


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    if uuid not in UUIDS:
        raise NVMLError("Not Found")
    return uuid


def nvmlDeviceGetMemoryInfo(board: str) -> _Memory:
    cuda: Any = sys.modules.get("simulated_cuda")
    used = OTHERS_BYTES + (cuda.used_bytes() if cuda and board == UUIDS[BOARD] else 0)
    return _Memory(MEMORY_BYTES, MEMORY_BYTES - used, used)


def nvmlDeviceGetTotalEnergyConsumption(board: str) -> int:
    return int(time.monotonic() * POWER_W * 1000)


def nvmlDeviceGetClockInfo(board: str, kind: int) -> int:
    return {1: 1500, 2: 7000}[kind]


def nvmlDeviceGetComputeRunningProcesses(board: str) -> list[_Process]:
    return [_Process(os.getpid(), None)] if board == UUIDS[BOARD] else []


_FACTS = {
    "Name": NAME,
    "PowerUsage": POWER_W * 1000,
    "PowerManagementLimit": 250_000,
    "CudaComputeCapability": (8, 6),
    "Temperature": 50,
    "CurrentClocksThrottleReasons": 0,
    "MaxClockInfo": 2000,
    **json.loads(os.environ.get("SIMULATED_NVML", "{}")),
}


def __getattr__(name: str) -> Any:
    fact = name.removeprefix("nvmlDeviceGet")
    if fact == name:
        raise AttributeError(name)

    def ask(board: str, *_: Any) -> Any:
        if fact == "UUID":
            return board
        if fact not in _FACTS:
            raise NVMLError("Not Supported")
        return _FACTS[fact]

    return ask
