"""The limits that Linux control groups put on this process, versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

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
    limits = [int(text) for text in _read_limits("memory.max", "memory/memory.limit_in_bytes")]
    return min(limits, default=None)


def read_cpu_quota() -> float | None:
    """Cores' worth of time that is granted; None where unlimited."""
    quotas = [text.split() for text in _read_limits("cpu.max")]
    return min((int(share) / int(period) for share, period in quotas), default=None)


def read_memory_left() -> int | None:
    """Bytes that can still be allocated below the limits; None where there is none.

    Files that the kernel can drop do not count as used.
    """
    version_1 = _left_in(ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
    version_2 = [_left_in(folder, "memory.max", "memory.current") for folder in list_groups()]
    return min((left for left in (version_1, *version_2) if left is not None), default=None)


def _left_in(folder: Path, limit_name: str, usage_name: str) -> int | None:
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


def _read_limits(version_2: str, version_1: str | None = None) -> list[str]:
    """A limit from this process's group up to the root; unlimited groups are left out."""
    paths = [folder / version_2 for folder in list_groups()]
    if version_1 is not None:
        paths.append(ROOT / version_1)
    texts = [read_text(path) for path in paths]
    return [text for text in texts if text and not text.startswith("max")]
