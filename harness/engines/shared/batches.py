"""Batches that follow the device: they shrink where memory runs out, and grow where that pays."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from harness.descriptions import BatchTokens

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


# A size is tried twice, since what runs first takes longer; the next one is to be this much faster.
_TRIES = 2
_PAYS = 0.9


class BatchSize:
    """How many tokens go through the model together, and what working with them has taught.

    With ``grows`` it doubles as long as that makes a token cheaper by a tenth, up to ``most``.
    """

    def __init__(self, tokens: int, grows: bool = False, most: float = math.inf) -> None:
        self.tokens = tokens
        self.grows = grows
        self._most = most
        self._seconds: list[float] = []  # per token, of batches of this size
        self._smaller = math.inf  # the same of half the size

    def ran(self, tokens: int, seconds: float) -> None:
        """A batch of ``tokens`` took ``seconds``; a small one teaches nothing."""
        if not self.grows or tokens <= self.tokens // 2:
            return
        self._seconds.append(seconds / tokens)
        if len(self._seconds) < _TRIES:
            return
        fastest = min(self._seconds)
        if fastest >= _PAYS * self._smaller:
            self.tokens, self.grows = self.tokens // 2, False
        elif self.tokens * 2 > self._most:
            self.grows = False
        else:
            self.tokens, self._smaller, self._seconds = self.tokens * 2, fastest, []

    def at_most(self, tokens: BatchTokens) -> BatchSize:
        """This one for "auto"; else one that begins with what this one learnt, and stays below."""
        if tokens == "auto":
            return self
        return BatchSize(min(self.tokens, tokens), self.grows, tokens)

    def limit(self, tokens: int) -> None:
        """No more than ``tokens`` fit into memory."""
        self.tokens = max(1, min(self.tokens, tokens))
        self.grows = False


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
