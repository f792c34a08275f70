"""The output head apart from the model: what goes into it, and its logits a slice at a time.

A window's logits are vocabulary / width times larger than the hidden states they come from. So the
states are caught on their way into the head, and the head runs on as many of them as fit. What a
model does behind its head (soft-capping, a logit scale) is not replayed: `replay_error` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from harness.engines.transformers import forward
from harness.engines.transformers.forward import keeps_logits


@dataclass(frozen=True)
class Hidden:
    """``states`` (batch, positions, width) go into the head, in its own dtype.

    ``live`` (batch, vocabulary): the model's own logits at the last of the positions.
    """

    states: torch.Tensor
    live: torch.Tensor


def head_of(model: Any) -> Any | None:
    """The module that turns hidden states into logits; None where the model names none."""
    return model.get_output_embeddings()


def read_hidden(
    model: Any,
    ids: torch.Tensor,
    positions: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> Hidden | None:
    """One forward pass of ``ids`` (batch, length), the head on the last of ``positions`` alone.

    Returns None where the states cannot be caught: no head, or one that is not called with the
    states of every position.
    """
    head = head_of(model)
    if head is None:
        return None
    caught: list[torch.Tensor] = []

    def catch(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        states = given[0] if given else None
        if not isinstance(states, torch.Tensor) or states.shape[:2] != (ids.shape[0], kept):
            return None
        caught.append(states if keeps_logits(model) else states[:, positions])
        return (caught[-1][:, -1:], *given[1:])

    kept = len(positions) if keeps_logits(model) else ids.shape[1]
    arguments: dict[str, Any] = {"logits_to_keep": positions} if keeps_logits(model) else {}
    if attention_mask is not None:
        arguments["attention_mask"] = attention_mask
    hook = head.register_forward_pre_hook(catch)
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False, **arguments).logits
    finally:
        hook.remove()
    if len(caught) != 1:
        return None
    return Hidden(caught[0], logits[:, -1])


def replay_error(model: Any, hidden: Hidden) -> float:
    """Largest difference between the head's logits and the model's own at the last position."""
    with torch.inference_mode():
        replayed = head_of(model)(hidden.states[:, -1:])[:, -1]  # type: ignore[misc]
        return float((replayed.float() - hidden.live.float()).abs().max())


def slice_positions(vocabulary: int, rows: int, positions: int) -> Iterator[slice]:
    """Slices of ``positions`` whose float32 logits (rows, slice, vocabulary) stay in bounds."""
    size = max(1, forward.MAX_LOGIT_BYTES // (4 * vocabulary * max(1, rows)))
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))
