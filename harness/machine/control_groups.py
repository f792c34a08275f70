"""The limits that Linux control groups put on this process, versions 1 and 2."""

import contextlib
from pathlib import Path

import psutil

from harness.machine.files import read_text

ROOT = Path("/sys/fs/cgroup")


def list_groups() -> list[Path]:
    """The folders of this process's control group (version 2) and of those above it."""
    lines = (read_text("/proc/self/cgroup") or "").splitlines()
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    folder = ROOT / own
    return [path for path in (folder, *folder.parents) if path.is_relative_to(ROOT)]


def read_memory_limit() -> int | None:
    """The lowest limit in bytes; None where there is none."""
    return min((limit for limit, _ in _read_memory()), default=None)


def read_memory_left() -> int | None:
    """Bytes that can still be allocated below the limits; None where there is none."""
    return min((left for _, left in _read_memory()), default=None)


def read_available_memory() -> int:
    """Bytes that the kernel can make available, or what the limits leave where that is less."""
    left = read_memory_left()
    available: int = psutil.virtual_memory().available
    return available if left is None else min(available, left)


def read_cpu_quota() -> float | None:
    """Cores' worth of time that is granted; None where unlimited."""
    texts = [read_text(folder / "cpu.max") for folder in list_groups()]
    quotas = [text.split() for text in texts if text and not text.startswith("max")]
    return min((int(share) / int(period) for share, period in quotas), default=None)


def _read_memory() -> list[tuple[int, int]]:
    """The limit and what is left of it, in bytes, of each group that has one.

    Files that the kernel can drop do not count as used: a checkpoint that was read twice is among
    the active ones, which can be dropped as well.
    """
    places = [(folder, "memory.max", "memory.current") for folder in list_groups()]
    places.append((ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
    found = []
    for folder, limit_name, usage_name in places:
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            limit = int((folder / limit_name).read_text())
            used = int((folder / usage_name).read_text())
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            kinds = ("inactive_file", "active_file")
            cached = sum(int(facts.get(f"total_{kind}") or facts.get(kind) or 0) for kind in kinds)
            found.append((limit, max(0, limit - used + cached)))
    return found
