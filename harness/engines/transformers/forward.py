"""Forward passes that keep only the logits that are asked for."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

# A GPU needs large slices to be busy. On a CPU glibc takes blocks of 32 MiB and more from the
# system and gives them back each time: 331 ms for 1,024 tokens of GPT-2's vocabulary, not 262.
_SLICE_BYTES = {"cpu": 30 << 20, "cuda": 256 << 20}


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


def slice_rows(rows: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """Slices of ``rows`` so large that their float32 logits (slice, vocabulary) suit ``device``."""
    size = max(1, _SLICE_BYTES.get(device.type, _SLICE_BYTES["cuda"]) // (4 * vocabulary))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
