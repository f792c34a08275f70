"""NVML, NVIDIA's management library: the one place that asks it. No torch, no CUDA context.

A board is found by its UUID, since CUDA's numbering need not be NVML's. A fact that a board or this
user does not get is None, never 0.
"""

import ctypes
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_KERNEL_MODULE = Path("/proc/driver/nvidia")
# nvml.h
CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0
# ``ask("nvmlDeviceGetName", *arguments)``: what NVML returns for one board; None where it refuses.
Ask = Callable[..., Any]


class NvmlError(RuntimeError):
    """NVML or a board is unavailable; the message is the reason."""


class NvmlSession:
    """An open session, for a ``with`` block; sessions may overlap.

    Raises `NvmlError` without the library, driver or right.
    """

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError:
            raise NvmlError("nvidia-ml-py is not installed") from None
        self._nvml = pynvml
        self._call("nvmlInit")

    def __enter__(self) -> "NvmlSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._nvml.nvmlShutdown()

    @property
    def driver(self) -> str:
        """The driver's version. Raises `NvmlError`."""
        return str(self._call("nvmlSystemGetDriverVersion"))

    @property
    def cuda(self) -> tuple[int, int]:
        """The newest CUDA version that the driver runs. Raises `NvmlError`."""
        version = self._call("nvmlSystemGetCudaDriverVersion")  # 12020 is 12.2
        return version // 1000, version % 1000 // 10

    def list_boards(self) -> list[Ask]:
        """Every board, in NVML's order. Raises `NvmlError`."""
        indices = range(self._call("nvmlDeviceGetCount"))
        handles = [self._call("nvmlDeviceGetHandleByIndex", index) for index in indices]
        return [partial(self._ask, handle) for handle in handles]

    def find_board(self, uuid: str) -> Ask:
        """The board with this UUID. Raises `NvmlError` where there is none."""
        return partial(self._ask, self._call("nvmlDeviceGetHandleByUUID", uuid))

    def _ask(self, handle: Any, function: str, *arguments: Any) -> Any:
        try:
            return self._call(function, handle, *arguments)
        except NvmlError:
            return None

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError as error:
            raise NvmlError(str(error)) from error


def has_cuda_driver() -> bool:
    """Whether NVIDIA's driver is here, as its library or its kernel module show. Starts nothing.

    A container may see a board without NVML, which belongs to the driver capability ``utility``.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _KERNEL_MODULE.exists()
    return True


def ask_board(uuid: str, function: str) -> Any:
    """What one function of NVML returns for the board with this UUID; None where unavailable."""
    try:
        with NvmlSession() as nvml:
            return nvml.find_board(uuid)(function)
    except NvmlError:
        return None


def read_used_bytes() -> dict[str, int]:
    """Bytes in use on each board by UUID; boards that do not say so are left out."""
    try:
        with NvmlSession() as nvml:
            asked = [
                (a("nvmlDeviceGetUUID"), a("nvmlDeviceGetMemoryInfo")) for a in nvml.list_boards()
            ]
    except NvmlError:
        return {}
    return {uuid: int(memory.used) for uuid, memory in asked if uuid and memory}


def describe_gpus() -> dict[str, Any]:
    """``{driver, devices}`` of all NVIDIA GPUs, or ``{unavailable: reason}``.

    Of a UUID only a hash is kept: enough to tell two boards apart, too little to trace one.
    """
    try:
        with NvmlSession() as nvml:
            boards = enumerate(nvml.list_boards())
            devices = [{"index": index, **_describe_board(ask)} for index, ask in boards]
            return {"driver": nvml.driver, "devices": devices}
    except NvmlError as error:
        return {"unavailable": str(error)}


def _describe_board(ask: Ask) -> dict[str, Any]:
    memory, mig = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetMigMode")
    power_mw = ask("nvmlDeviceGetPowerManagementLimit")
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    uuid = ask("nvmlDeviceGetUUID")
    return {
        "name": ask("nvmlDeviceGetName"),
        "memory_bytes": memory.total if memory else None,
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "power_limit_w": power_mw / 1000 if power_mw else None,
        "max_sm_mhz": ask("nvmlDeviceGetMaxClockInfo", CLOCK_SM),
        "max_memory_mhz": ask("nvmlDeviceGetMaxClockInfo", CLOCK_MEMORY),
        "mig": bool(mig[0]) if mig else None,
        "uuid_hash": hash_uuid(uuid) if uuid else None,
    }


def hash_uuid(uuid: str) -> str:
    """What is kept of a board's UUID."""
    return hashlib.sha256(uuid.encode()).hexdigest()[:16]
