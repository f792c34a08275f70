"""How much memory is still available: on the device, or on the machine and its control group."""

import torch

from harness.machine.control_groups import read_available_memory


def free_bytes(device: str) -> int | None:
    """Bytes that can still be allocated on ``device``; None where that is unknown.

    On CUDA what the driver reports as free, and what this process's allocator holds unused. On a
    CPU what the kernel can make available, or what the control group leaves where that is less. A
    GPU that shares the CPU's memory may have that too: its driver counts files as not free.
    """
    if not device.startswith("cuda"):
        return read_available_memory()
    try:
        free, _ = torch.cuda.mem_get_info(device)
    except (RuntimeError, AssertionError):  # no such device, or a build without CUDA
        return None
    if getattr(torch.cuda.get_device_properties(device), "is_integrated", False):
        free = max(free, read_available_memory())
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + held)


def format_gb(size: float | None) -> str:
    """``1.5 GB``, of 10**9 bytes."""
    return "an unknown number of bytes" if size is None else f"{size / 1e9:.3g} GB"
