"""Forward passes that keep only the logits that are asked for. Runs in the worker only."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from harness.records.record import Measured, Record

T = TypeVar("T")

# Called with items done, items in all and what an item is.
Progress = Callable[[int, int, str], None]
# Called with what is measured so far and the name of what comes next.
Keep = Callable[["Measured", str], None]

_MAX_LOGIT_BYTES = 1 << 28


@dataclass(frozen=True)
class MeasureContext:
    """What a measurement needs besides the model.

    ``reference`` is the reference cell's record of this very measurement, where this cell is
    compared with one; ``is_reference`` tells that this cell is the one others are compared with.
    ``keep`` takes what shall stand should the process not survive what comes next.
    """

    suite_folder: Path
    online: bool
    progress: Progress
    reference: Record | None = None
    is_reference: bool = False
    keep: Keep = lambda measured, before: None


def logits_at(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits (batch, len(positions), vocabulary) of ``ids`` (batch, length) at ``positions``.

    Rows padded on the right are safe at their own positions: attention is causal.
    """
    import torch

    with torch.inference_mode():
        if keeps_logits(model):
            kept: torch.Tensor = model(
                input_ids=ids, use_cache=False, logits_to_keep=positions
            ).logits
            return kept
        everything: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return everything[:, positions]


def keeps_logits(model: Any) -> bool:
    """Whether the model can be asked for the logits of some positions only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def batch_for_logits(model: Any, positions: int, wanted: int) -> int:
    """How many rows may go together so that their float32 logits stay within 256 MiB."""
    vocabulary: int = model.get_input_embeddings().num_embeddings
    return max(1, min(wanted, _MAX_LOGIT_BYTES // (4 * vocabulary * max(1, positions))))


_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


def is_out_of_memory(error: Exception) -> bool:
    """CUDA's own class, or what cuBLAS, a failed launch and the CPU allocator say instead."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(sign in str(error) for sign in _OUT_OF_MEMORY)
    )


def run_in_batches(items: Sequence[T], size: int, run: Callable[[Sequence[T]], None]) -> int:
    """``run`` on consecutive slices of at most ``size`` items; returns the size that held.

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
    """Give back what a failed batch has left behind."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
