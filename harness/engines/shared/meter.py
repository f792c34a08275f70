"""Peak and current memory of this process, by phase, in bytes.

On CUDA: the allocator's own peak, reset per phase; beside it what the allocator had reserved, and
what the device as a whole has in use more than before this process touched it. On a CPU: VmHWM of
``/proc/self/status``, reset through ``/proc/self/clear_refs``, never ``ru_maxrss``, which a child
inherits from its parent; beside it RssAnon, which leaves out the pages of mapped files that VmHWM
counts. What cannot be had is None, never 0.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from pathlib import Path
from typing import Any

from harness.engines.shared.free_memory import free_bytes as free_bytes
from harness.machine.nvml import find_uuid, read_used_bytes

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # malloc.h
_GIVE_BACK_BYTES, _KEEP_BYTES = 64 << 10, 32 << 20
_CUDA_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")


class MemoryMeter:
    """Reads memory relative to what the process held when the meter was made."""

    def __init__(self, device: str) -> None:
        self._cuda = device if device.startswith("cuda") else None
        self._can_reset = self._cuda is not None or _can_reset_peak()
        self._boards_before = _read_boards_before() if self._cuda else {}
        self._reserved_peak = 0
        self.settle()  # from here on what is freed is given back, until `steady`
        self._baseline = 0 if self._cuda else _read_status("VmRSS")
        self._anonymous_baseline = None if self._cuda else _read_status("RssAnon")

    @property
    def method(self) -> str:
        """How the numbers were read, for the record."""
        if self._cuda:
            return "torch.cuda.max_memory_allocated"
        return "VmHWM reset by clear_refs" if self._can_reset else "unavailable"

    @property
    def allocator(self) -> dict[str, Any]:
        """What gives out the memory and how it is set, for the record."""
        if self._cuda:
            import torch

            set_to = {name: os.environ[name] for name in _CUDA_SETTINGS if name in os.environ}
            return {"name": torch.cuda.get_allocator_backend(), **set_to}
        preloaded = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
        return {
            "name": " ".join(platform.libc_ver()).strip() or platform.system(),
            "preloaded": [Path(library).name for library in preloaded],
            "mmap_threshold_bytes": _GIVE_BACK_BYTES if _find_mallopt() else None,
        }

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
            self._keep_reserved_peak()  # before what was reserved is given back
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

            self._keep_reserved_peak()
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

    def reserved_peak_bytes(self) -> int | None:
        """The most that CUDA's allocator has held of the device, in any phase; None on a CPU."""
        if self._cuda is None:
            return None
        self._keep_reserved_peak()
        return self._reserved_peak

    def device_used_bytes(self) -> int | None:
        """What the device has in use now more than before this process's context was made.

        By NVML: the context, its kernels and what the allocator has reserved, and whatever other
        processes have taken since. None on a CPU, without NVML, and where CUDA was in use before.
        """
        uuid = find_uuid(self._cuda) if self._cuda and self._boards_before else None
        now = read_used_bytes().get(uuid) if uuid is not None else None
        before = self._boards_before.get(uuid) if uuid is not None else None
        return None if now is None or before is None else max(0, now - before)

    def context_bytes(self) -> int | None:
        """What of `device_used_bytes` is not the allocator's: CUDA's context and kernels."""
        used = self.device_used_bytes()
        if used is None:
            return None
        import torch

        return max(0, used - torch.cuda.memory_reserved(self._cuda))

    def anonymous_bytes(self) -> int | None:
        """What is held now without the pages of mapped files; None on CUDA and without /proc."""
        now = _read_status("RssAnon")
        if now is None or self._anonymous_baseline is None:
            return None
        return max(0, now - self._anonymous_baseline)

    def _keep_reserved_peak(self) -> None:
        import torch

        self._reserved_peak = max(self._reserved_peak, torch.cuda.max_memory_reserved(self._cuda))

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
    mallopt = _find_mallopt()
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size)


def _find_mallopt() -> Any:
    return getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only


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


def _read_boards_before() -> dict[str, int]:
    """What is in use on each board before this process's CUDA context; none once that is there.

    Which of them is this process's own can be told only with the context.
    """
    import torch

    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {} if in_use else read_used_bytes()
