"""The most this device can do: bytes copied and matrix products computed per second.

Measured in the process whose speeds are compared with it, under its threads, clocks and switches;
once, since it takes about a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from harness.engines.shared.available_memory import free_bytes
from harness.engines.shared.batches import free_memory

CPU_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_GIB = 1 << 30
_REPEATS = 3
MATMUL_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_MATRICES = 5  # of four bytes at most: two factors, before and after conversion, and the product
_LONG_ENOUGH_S = 0.02


@cache
def measure_bandwidth(device: str) -> float | None:
    """Bytes per second of a copy within ``device``, read plus write, the best of several.

    Of 1 GiB, on a CPU of four times the last-level cache where that is less. None where the two
    buffers do not fit into 80 % of what is free: a smaller copy would stay within the cache.
    """
    size, free = copy_bytes(device), free_bytes(device)
    if free is not None and 2 * size > 0.8 * free:
        return None
    seconds = time_copy(device, size)
    free_memory()
    return 2 * size / seconds


def copy_bytes(device: str) -> int:
    """The size of the buffer that `measure_bandwidth` copies."""
    cached = last_level_cache_bytes(device)
    if device.startswith("cuda") or cached is None:
        return _GIB
    return min(_GIB, 4 * cached)


@cache
def measure_matmul_peak(device: str, dtype: str) -> float | None:
    """FLOP per second of a product of square matrices in ``dtype``, such as ``bfloat16``.

    The best over sizes that grow until a product takes 20 ms; a multiplication and an addition
    are two. Random numbers: a GPU draws less power, and so clocks higher, on zeros. None where not
    even the smallest fits into 80 % of what is free.
    """
    best = 0.0
    for size in MATMUL_SIZES[torch.device(device).type]:
        free = free_bytes(device)
        if free is not None and _MATRICES * size**2 * 4 > 0.8 * free:
            break
        seconds = time_product(device, dtype, size)
        best = max(best, 2 * size**3 / seconds)
        if seconds > _LONG_ENOUGH_S:
            break
    free_memory()
    return best or None


def last_level_cache_bytes(device: str) -> int | None:
    """The largest cache that a weight is read through; None where that is unknown."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [_read_size(path) for path in CPU_CACHES.glob("index*/size")]
    return max((size for size in sizes if size is not None), default=None)


def time_copy(device: str, size: int) -> float:
    """Seconds that copying ``size`` bytes takes."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _best_seconds(device, lambda: target.copy_(source))


def time_product(device: str, dtype: str, size: int) -> float:
    """Seconds that a product of two (size, size) matrices takes."""
    numbers = torch.randn(2, size, size, device=device).to(getattr(torch, dtype))
    out = torch.empty_like(numbers[0])
    return _best_seconds(device, lambda: torch.mm(*numbers, out=out))


def _read_size(path: Path) -> int | None:
    """``491520K`` in bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    try:
        text = path.read_text().strip()
        return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)
    except (OSError, ValueError):
        return None


def _best_seconds(device: str, work: Callable[[], Any]) -> float:
    """The shortest of several repeats, after one that does not count.

    On CUDA a repeat is of ten: a wait for the device takes as long as a short copy.
    """
    cuda = device.startswith("cuda")
    at_once = 10 if cuda else 1
    work()
    best = float("inf")
    for _ in range(_REPEATS):
        _synchronise(device)
        start = time.perf_counter_ns()
        for _ in range(at_once):
            work()
        _synchronise(device)
        best = min(best, (time.perf_counter_ns() - start) / 1e9 / at_once)
    return best


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
