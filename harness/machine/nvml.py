"""NVML's answers about a board, which is found by its UUID: CUDA's numbering need not be NVML's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def find_uuid(device: str) -> str | None:
    """By what NVML knows this CUDA device; None on a CPU. Has torch start CUDA."""
    if not device.startswith("cuda"):
        return None
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def ask_board(uuid: str, name: str) -> Any:
    """What the function ``name`` of NVML says of a board; None where that is not to be had."""
    with _session() as nvml:
        return None if nvml is None else _attempt(nvml, uuid, name)


def read_used_bytes() -> dict[str, int]:
    """Bytes in use on each board, by UUID, those left out that tell nothing. Needs no CUDA."""
    with _session() as nvml:
        if nvml is None:
            return {}
        found = {uuid: _attempt(nvml, uuid, "nvmlDeviceGetMemoryInfo") for uuid in _list(nvml)}
        return {uuid: int(memory.used) for uuid, memory in found.items() if memory is not None}


@contextmanager
def _session() -> Iterator[Any]:
    """NVML, initialised; None without the library, a driver or the permission."""
    try:
        import pynvml as nvml
    except ImportError:
        yield None
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _list(nvml: Any) -> list[str]:
    try:
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return [nvml.nvmlDeviceGetUUID(handle) for handle in handles]
    except nvml.NVMLError:
        return []


def _attempt(nvml: Any, uuid: str, name: str) -> Any:
    try:
        return getattr(nvml, name)(nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError:
        return None
