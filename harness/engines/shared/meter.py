"""Peak and current memory of this process, by phase, in bytes. What is unavailable is None.

On CUDA: the allocator's own peak, reset per phase; also what the allocator has reserved, and by how
much the device's use has grown since before this process touched it. On a CPU: VmHWM of
``/proc/self/status``, reset through ``/proc/self/clear_refs``, never ``ru_maxrss``, which a child
inherits from its parent; also RssAnon, which leaves out the mapped files' pages that VmHWM counts.
"""

import ctypes
import gc
import os
import platform
from pathlib import Path
from typing import Any

import torch

from harness.engines.shared.board import find_uuid
from harness.machine.files import read_text
from harness.machine.nvml import read_used_bytes

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # malloc.h
_GIVE_BACK_BYTES, _KEEP_BYTES = 64 << 10, 32 << 20
_CUDA_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")


class MemoryMeter:
    """Reads memory relative to what the process held at the last `start_again`.

    On CUDA, making it starts CUDA on ``device``, which becomes the process's current one: otherwise
    libraries would take the memory of a context on the first GPU as well.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device if device.startswith("cuda") else None
        self._can_reset = self._cuda is not None or _can_reset_peak()
        # By board, before CUDA's context: which board is this process's is known only with it.
        unused = self._cuda and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._boards_before = read_used_bytes() if unused else {}
        if self._cuda:
            torch.cuda.set_device(self._cuda)
        self._reserved_peak = 0
        self.start_again()

    def start_again(self) -> None:
        """Count from what the process holds now, but the device's use from when this was made."""
        self.release_unused()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._reserved_peak = 0  # not what was given back
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
        """Which allocator gives out the memory and its settings, for the record."""
        if self._cuda:
            set_to = {name: os.environ[name] for name in _CUDA_SETTINGS if name in os.environ}
            return {"name": torch.cuda.get_allocator_backend(), **set_to}
        preloaded = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
        return {
            "name": " ".join(platform.libc_ver()).strip() or platform.system(),
            "preloaded": [Path(library).name for library in preloaded],
            "mmap_threshold_bytes": _GIVE_BACK_BYTES if _find_in_glibc("mallopt") else None,
        }

    def reuse_freed(self) -> None:
        """Let the C library keep freed blocks again, as it does in any long-lived process."""
        if self._cuda is None:
            _set_mmap_threshold(_KEEP_BYTES)

    def release_unused(self) -> None:
        """Give back unused memory, so that the next reading holds only what is in use.

        Until `reuse_freed` the C library gives back at once what is freed.
        """
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize(self._cuda)
            self._keep_reserved_peak()  # before what was reserved is given back
            torch.cuda.empty_cache()
        else:
            give_back_freed()
            trim = _find_in_glibc("malloc_trim")
            if trim is not None:
                trim(0)

    def start_phase(self) -> None:
        """Forget the peak so far."""
        if self._cuda:
            self._keep_reserved_peak()
            torch.cuda.reset_peak_memory_stats(self._cuda)
        elif self._can_reset:
            CLEAR_REFS.write_text("5")

    def peak_bytes(self) -> int | None:
        """The highest since `start_phase`, less the baseline."""
        if self._cuda:
            torch.cuda.synchronize(self._cuda)
            return int(torch.cuda.max_memory_allocated(self._cuda))
        return _subtract(_read_status("VmHWM"), self._baseline) if self._can_reset else None

    def current_bytes(self) -> int | None:
        """What is held now, less the baseline."""
        if self._cuda:
            return int(torch.cuda.memory_allocated(self._cuda))
        return _subtract(_read_status("VmRSS"), self._baseline)

    def reserved_peak_bytes(self) -> int | None:
        """The most that CUDA's allocator has held of the device, in any phase; None on a CPU."""
        if self._cuda is None:
            return None
        self._keep_reserved_peak()
        return self._reserved_peak

    def device_used_bytes(self) -> int | None:
        """By how much the device's use has grown since before this process's CUDA context.

        By NVML: the context, its kernels and what the allocator has reserved, and whatever other
        processes have taken since. None on a CPU, without NVML, and where CUDA was in use before.
        """
        if self._cuda is None or not self._boards_before:
            return None
        uuid = find_uuid(self._cuda)
        if uuid is None:
            return None
        return _subtract(read_used_bytes().get(uuid), self._boards_before.get(uuid))

    def context_bytes(self) -> int | None:
        """CUDA's context and kernels: the part of `device_used_bytes` outside the allocator."""
        used = self.device_used_bytes()
        return None if used is None else _subtract(used, torch.cuda.memory_reserved(self._cuda))

    def anonymous_bytes(self) -> int | None:
        """What is held now without the pages of mapped files; None on CUDA and without /proc."""
        return _subtract(_read_status("RssAnon"), self._anonymous_baseline)

    def _keep_reserved_peak(self) -> None:
        self._reserved_peak = max(self._reserved_peak, torch.cuda.max_memory_reserved(self._cuda))


def give_back_freed() -> None:
    """Have the C library return large freed blocks to the system, from here on."""
    _set_mmap_threshold(_GIVE_BACK_BYTES)


def _set_mmap_threshold(size: int) -> None:
    """From which size glibc takes a block from the system, and gives it back when it is freed.

    Unless it is set, it grows to 32 MiB with the blocks seen, and freed weights stay resident.
    """
    mallopt = _find_in_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, size)


def _find_in_glibc(function: str) -> Any:
    """A function that only glibc has; None with another C library."""
    return getattr(ctypes.CDLL(None), function, None)


def _can_reset_peak() -> bool:
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return _read_status("VmHWM") is not None


def _read_status(field: str) -> int | None:
    """A field of /proc/self/status in bytes."""
    for line in (read_text(STATUS) or "").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _subtract(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else max(0, now - before)
