"""Forward passes that keep only the logits that are asked for."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

MAX_LOGIT_BYTES = 1 << 28


def logits_at(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits (batch, len(positions), vocabulary) of ``ids`` (batch, length) at ``positions``.

    Rows padded on the right are safe at their own positions: attention is causal.
    """
    with torch.inference_mode():
        keep = {"logits_to_keep": positions} if keeps_logits(model) else {}
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, **keep).logits
        return logits if keep else logits[:, positions]


def keeps_logits(model: Any) -> bool:
    """Whether the model can be asked for the logits of some positions only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def batch_for_logits(model: Any, positions: int, wanted: int) -> int:
    """How many rows may go together so that their float32 logits stay within 256 MiB."""
    vocabulary: int = model.get_input_embeddings().num_embeddings
    return max(1, min(wanted, MAX_LOGIT_BYTES // (4 * vocabulary * max(1, positions))))


def slice_rows(rows: int, vocabulary: int, limit_bytes: int) -> Iterator[slice]:
    """Slices of ``rows`` whose float32 logits (slice, vocabulary) take at most ``limit_bytes``."""
    size = max(1, limit_bytes // (4 * vocabulary))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
