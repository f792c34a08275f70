"""Batches that shrink where memory runs out."""

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
_OUT_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")
# cuBLAS and cuDNN say so where memory lacks for their handles, which torch's allocator does not
# make, but of a broken driver as well. Handles take some hundred MB at most.
_NOT_INITIALIZED = "STATUS_NOT_INITIALIZED"
_HANDLE_BYTES = 512 << 20


def is_out_of_memory(error: Exception) -> bool:
    """By CUDA's own class, or by the message of a library, a failed launch or the CPU allocator."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(sign in str(error) for sign in _OUT_OF_MEMORY)
        or (_NOT_INITIALIZED in str(error) and _is_full())
    )


def _is_full() -> bool:
    """Whether the current GPU has too little left for a library's handle."""
    try:
        free, _ = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError):
        return False
    return bool(free < _HANDLE_BYTES)


def run_in_batches(items: Sequence[T], size: int, run: Callable[[Sequence[T]], None]) -> int:
    """``run`` on consecutive slices of at most ``size`` items; returns the size that fitted.

    Where memory runs out the size is halved and the slice tried again; a single item that does
    not fit raises. ``run`` must keep nothing of a slice that it did not finish.
    """
    done = 0
    while done < len(items):
        batch = items[done : done + size]
        full = False
        try:
            run(batch)
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            full = True
        if full:  # out here, where the error's frames no longer hold the batch
            size = len(batch) // 2
            free_memory()
        else:
            done += len(batch)
    return size


def free_memory() -> None:
    """Release the memory that a failed batch still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
