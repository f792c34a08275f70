"""How much memory can still be had: on the device, or on the machine within its control group."""

from __future__ import annotations

from pathlib import Path

import psutil

from harness.machine.environment import CGROUP_ROOT, list_cgroups

_V1 = (CGROUP_ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")


def free_bytes(device: str) -> int | None:
    """Bytes that can still be allocated on ``device``; None where that cannot be told.

    On CUDA what the driver says is free, and what this process's allocator holds unused. On a CPU
    what the kernel can make available, or what the control group leaves where that is less.
    """
    if device.startswith("cuda"):
        import torch

        try:
            free, _ = torch.cuda.mem_get_info(device)
        except (RuntimeError, AssertionError):  # no such device, or a build without CUDA
            return None
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + held)
    left = (_left_in_group(folder, "memory.max", "memory.current") for folder in list_cgroups())
    limits = [bytes_left for bytes_left in (*left, _left_in_group(*_V1)) if bytes_left is not None]
    return min(psutil.virtual_memory().available, *limits)


def _left_in_group(folder: Path, limit_name: str, usage_name: str) -> int | None:
    """Limit less usage of one control group, files that can be dropped not counted as usage.

    None where it has no limit.
    """
    try:
        limit = int((folder / limit_name).read_text())
        used = int((folder / usage_name).read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # absent, or "max"
        return None
    # A checkpoint that was read twice is among the active ones, which can be dropped as well.
    kinds = ("inactive_file", "active_file")
    cached = sum(int(facts.get(f"total_{kind}") or facts.get(kind) or 0) for kind in kinds)
    return max(0, limit - used + cached)


def format_gb(size: float | None) -> str:
    """``1.5 GB``, of 10**9 bytes."""
    return "an unknown number of bytes" if size is None else f"{size / 1e9:.3g} GB"
