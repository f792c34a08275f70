"""Peak and current memory of this process, by phase, in bytes.

On CUDA: the allocator's own peak, reset per phase. On a CPU: VmHWM of ``/proc/self/status``, reset
through ``/proc/self/clear_refs``; never ``ru_maxrss``, which a child inherits from its parent.
Where neither can be had the readings are None, never 0.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # malloc.h
_GIVE_BACK_BYTES, _KEEP_BYTES = 64 << 10, 32 << 20


class MemoryMeter:
    """Reads memory relative to what the process held when the meter was made."""

    def __init__(self, device: str) -> None:
        self._cuda = device if device.startswith("cuda") else None
        self._can_reset = self._cuda is not None or _can_reset_peak()
        self.settle()  # from here on what is freed is given back, until `steady`
        self._baseline = 0 if self._cuda else _read_status("VmRSS")

    @property
    def method(self) -> str:
        """How the numbers were read, for the record."""
        if self._cuda:
            return "torch.cuda.max_memory_allocated"
        return "VmHWM reset by clear_refs" if self._can_reset else "unavailable"

    def steady(self) -> None:
        """Let the C library keep freed blocks again, as it does in any long-lived process."""
        if self._cuda is None:
            _set_mmap_threshold(_KEEP_BYTES)

    def settle(self) -> None:
        """Give back what is free, so that the next reading holds only what is in use."""
        gc.collect()
        if self._cuda:
            import torch

            torch.cuda.synchronize(self._cuda)
            torch.cuda.empty_cache()
        else:
            give_back_freed()
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
            if trim is not None:
                trim(0)

    def start_phase(self) -> None:
        """Forget the peak so far."""
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self._cuda)
        elif self._can_reset:
            _CLEAR_REFS.write_text("5")

    def peak_bytes(self) -> int | None:
        """The highest since `start_phase`, less the baseline; None where it cannot be read."""
        if self._cuda:
            import torch

            torch.cuda.synchronize(self._cuda)
            return int(torch.cuda.max_memory_allocated(self._cuda))
        return self._relative(_read_status("VmHWM")) if self._can_reset else None

    def current_bytes(self) -> int | None:
        """What is held now, less the baseline; None where it cannot be read."""
        if self._cuda:
            import torch

            return int(torch.cuda.memory_allocated(self._cuda))
        return self._relative(_read_status("VmRSS"))

    def _relative(self, reading: int | None) -> int | None:
        if reading is None or self._baseline is None:
            return None
        return max(0, reading - self._baseline)


def give_back_freed() -> None:
    """Have the C library return large freed blocks to the system, from here on."""
    _set_mmap_threshold(_GIVE_BACK_BYTES)


def _set_mmap_threshold(size: int) -> None:
    """From which size glibc takes a block from the system, and gives it back when it is freed.

    Left alone it grows to 32 MiB with the blocks it has seen, and freed weights stay resident.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size)


def _can_reset_peak() -> bool:
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return _read_status("VmHWM") is not None


def _read_status(field: str) -> int | None:
    """A field of /proc/self/status in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
