"""The most this device can do, in bytes copied and products computed per second, and its use.

The peaks are measured in the process whose speeds are compared with them, under its threads, clocks
and switches; once, since it takes about a second.
"""

import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from harness.engines.base import Engine, Work
from harness.engines.shared.available_memory import free_bytes
from harness.engines.shared.batches import free_memory
from harness.records.record import Value
from harness.records.values import qualify
from harness.timing.prompts import within_memory

Numbers = dict[str, int | float | None]
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
    size = copy_bytes(device)
    if not _fits(device, 2 * size):
        return None
    seconds = time_copy(device, size)
    free_memory()
    return 2 * size / seconds


def copy_bytes(device: str) -> int:
    """The size of the buffer that `measure_bandwidth` copies."""
    cached = last_level_cache_bytes(device)
    return _GIB if device.startswith("cuda") or cached is None else min(_GIB, 4 * cached)


@cache
def measure_matmul_peak(device: str, dtype: str) -> float | None:
    """FLOP per second of a product of square matrices in ``dtype``, such as ``bfloat16``.

    The best over sizes that grow until a product takes 20 ms; a multiplication and an addition
    are two. Random numbers: a GPU draws less power, and so clocks higher, on zeros. None where not
    even the smallest fits into 80 % of what is free.
    """
    best = 0.0
    for size in MATMUL_SIZES[torch.device(device).type]:
        if not _fits(device, _MATRICES * size**2 * 4):
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
    sizes = [path.read_text().strip() for path in CPU_CACHES.glob("index*/size")]
    known = [int(size[:-1]) << 10 for size in sizes if re.fullmatch(r"\d+K", size)]
    return max(known, default=None)


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


def _fits(device: str, size: int) -> bool:
    free = free_bytes(device)
    return free is None or size <= 0.8 * free


def _best_seconds(device: str, work: Callable[[], Any]) -> float:
    """The shortest of several repeats, after one that does not count.

    On CUDA a repeat is of ten: a wait for the device takes as long as a short copy.
    """
    cuda = device.startswith("cuda")
    at_once = 10 if cuda else 1
    seconds = []
    work()
    for _ in range(_REPEATS):
        if cuda:
            torch.cuda.synchronize(device)
        start = time.perf_counter_ns()
        for _ in range(at_once):
            work()
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter_ns() - start) / 1e9 / at_once)
    return min(seconds)


def step_bytes(work: Work, batch: int, prompt_tokens: int, new_tokens: int) -> int | None:
    """Bytes that a decode step reads: weights, and keys and values at the mean context.

    Step i of the N - 1 reads a context of prompt + i, which is prompt + N/2 on average.
    """
    if work.weight_bytes is None or work.kv_bytes is None:
        return None
    return work.weight_bytes + round(batch * work.kv_bytes * (prompt_tokens + new_tokens / 2))


def prefill_flop(work: Work, batch: int, prompt_tokens: int) -> int | None:
    """Additions and multiplications of reading the prompt.

    Two per weight and token; causal attention 4·width·T²/2 per sequence: products with the
    keys and with the values, half of them masked. The head only at the last position, unless
    the model gives the logits of all.
    """
    if work.layer_weights is None or work.attention_width is None:
        return None
    heads = prompt_tokens if work.head_everywhere else 1
    per_sequence = (
        2 * work.layer_weights * prompt_tokens
        + 2 * work.attention_width * prompt_tokens**2
        + 2 * work.head_weights * heads
    )
    return batch * per_sequence


def share(work: float | None, seconds: float | None, peak: float | None) -> float | None:
    """Work per second over what the device can do; None where one of them is unknown."""
    if work is None or seconds is None or peak is None:
        return None
    return work / (seconds * peak)


def measure_peaks(engine: Engine) -> Numbers | str:
    """What the device can do at best; a sentence where memory runs out."""

    def measure() -> Numbers:
        return {
            "bandwidth_bytes_per_s": measure_bandwidth(engine.device),
            "matmul_flop_per_s": measure_matmul_peak(engine.device, engine.compute_dtype),
        }

    return within_memory(engine.device, 0, measure)


def compare_with_peaks(
    peaks: Numbers, work: Work, values: Mapping[str, Value], samples: Mapping[str, Any]
) -> Numbers:
    """MBU and FLOP utilisation of every workload in ``samples``."""
    found: Numbers = {}
    for qualifier, timed in samples.items():
        step, tpot = (values[qualify(n, qualifier)].value for n in ("step_bytes", "tpot_s"))
        found[qualify("mbu", qualifier)] = share(step, tpot, peaks["bandwidth_bytes_per_s"])
        ttft = values.get(qualify("ttft_s", qualifier))
        if ttft is not None:
            flop = prefill_flop(work, timed["batch_size"], timed["prompt_tokens"])
            use = share(flop, ttft.value, peaks["matmul_flop_per_s"])
            found[qualify("prefill_flop_utilisation", qualifier)] = use
    return found


def describe_peaks(engine: Engine) -> dict[str, Any]:
    """What kind of products and which cache the peaks are of, for the record."""
    attested, dtype = engine.attested, engine.compute_dtype
    return {
        "matmul_dtype": "tf32" if dtype == "float32" and attested.get("tf32") else dtype,
        "products": attested.get("product_dtype", dtype),
        "last_level_cache_bytes": last_level_cache_bytes(engine.device),
    }
