"""NVML, NVIDIA's management library: the one place that asks it. No torch, no CUDA context.

A board is found by its UUID, since CUDA's numbering need not be NVML's. A fact that a board or this
user does not get is None, never 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# nvml.h
CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0


class NvmlError(RuntimeError):
    """NVML or a board is unavailable; the message is the reason."""


@dataclass(frozen=True)
class Board:
    """One GPU of an open session."""

    _nvml: Any
    _handle: Any

    def ask(self, function: str, *arguments: Any) -> Any:
        """What this function of NVML returns for the board; None where it refuses."""
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


class NvmlSession:
    """An open session, to be closed. Raises `NvmlError` without the library, driver or right."""

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError:
            raise NvmlError("nvidia-ml-py is not installed") from None
        self._nvml = pynvml
        with self._explaining():
            pynvml.nvmlInit()

    def list_boards(self) -> list[Board]:
        """Every board, in NVML's order. Raises `NvmlError`."""
        nvml = self._nvml
        with self._explaining():
            indices = range(nvml.nvmlDeviceGetCount())
            return [Board(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in indices]

    def find_board(self, uuid: str) -> Board:
        """The board with this UUID. Raises `NvmlError` where there is none."""
        with self._explaining():
            return Board(self._nvml, self._nvml.nvmlDeviceGetHandleByUUID(uuid))

    def read_driver(self) -> str | None:
        """The driver's version; None where NVML does not give it."""
        try:
            return str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return None

    def close(self) -> None:
        """End the session; sessions may overlap, NVML counts them."""
        self._nvml.nvmlShutdown()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise NvmlError(str(error)) from error


@contextmanager
def open_nvml() -> Iterator[NvmlSession]:
    """A session for the length of a ``with`` block. Raises `NvmlError`."""
    session = NvmlSession()
    try:
        yield session
    finally:
        session.close()


def ask_board(uuid: str, function: str) -> Any:
    """What one function of NVML returns for the board with this UUID; None where unavailable."""
    try:
        with open_nvml() as nvml:
            return nvml.find_board(uuid).ask(function)
    except NvmlError:
        return None


def read_used_bytes() -> dict[str, int]:
    """Bytes in use on each board by UUID; boards that do not say so are left out."""
    found = {}
    try:
        with open_nvml() as nvml:
            for board in nvml.list_boards():
                uuid, memory = board.ask("nvmlDeviceGetUUID"), board.ask("nvmlDeviceGetMemoryInfo")
                if uuid is not None and memory is not None:
                    found[uuid] = int(memory.used)
    except NvmlError:
        return {}
    return found


def describe_gpus() -> dict[str, Any]:
    """``{driver, devices}`` of all NVIDIA GPUs, or ``{unavailable: reason}``.

    Of a UUID only a hash is kept: enough to tell two boards apart, too little to trace one.
    """
    try:
        with open_nvml() as nvml:
            boards = enumerate(nvml.list_boards())
            devices = [_describe_board(index, board) for index, board in boards]
            return {"driver": nvml.read_driver(), "devices": devices}
    except NvmlError as error:
        return {"unavailable": str(error)}


def _describe_board(index: int, board: Board) -> dict[str, Any]:
    memory = board.ask("nvmlDeviceGetMemoryInfo")
    power_mw = board.ask("nvmlDeviceGetPowerManagementLimit")
    capability = board.ask("nvmlDeviceGetCudaComputeCapability")
    uuid = board.ask("nvmlDeviceGetUUID")
    mig = board.ask("nvmlDeviceGetMigMode")
    return {
        "index": index,
        "name": board.ask("nvmlDeviceGetName"),
        "memory_bytes": memory.total if memory else None,
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "power_limit_w": power_mw / 1000 if power_mw else None,
        "max_sm_mhz": board.ask("nvmlDeviceGetMaxClockInfo", CLOCK_SM),
        "max_memory_mhz": board.ask("nvmlDeviceGetMaxClockInfo", CLOCK_MEMORY),
        "mig": bool(mig[0]) if mig else None,
        "uuid_hash": hashlib.sha256(uuid.encode()).hexdigest()[:16] if uuid else None,
    }
