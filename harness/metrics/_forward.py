"""Forward passes that keep only the logits that are asked for. Runs in the worker only."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Called with items done, items in all and what an item is.
Progress = Callable[[int, int, str], None]

_MAX_LOGIT_BYTES = 1 << 28


@dataclass(frozen=True)
class MeasureContext:
    """What a measurement needs besides the model: where the suite lies, the hub, the progress."""

    suite_folder: Path
    online: bool
    progress: Progress


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


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats, float32 log-softmax, returned in float64.

    ``logits`` (..., vocabulary), ``targets`` (...) of token ids.
    """
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - chosen).double()
