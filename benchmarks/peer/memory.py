"""Resident memory of processes, in bytes, from /proc (Linux only)."""

from __future__ import annotations

from pathlib import Path


def read_bytes(field: str, pid: int | str = "self") -> int:
    """``VmRSS`` (now) or ``VmHWM`` (the peak); 0 for a process that is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def read_own_bytes(pid: int) -> int:
    """What no other process shares with ``pid``; 0 for one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = (line.split()[1] for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
    return sum(map(int, own)) * 1024


def reset_peak() -> None:
    """Let VmHWM start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
