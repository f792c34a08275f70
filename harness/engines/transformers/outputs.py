"""What a model says at some positions of its input: hidden states or logits.

Logits exist a bounded slice at a time, and both sides are cut into the same slices: a product of
another shape would differ in its last bits, and so would a model from itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear

from harness.engines.transformers.forward import logits_at
from harness.engines.transformers.head import head_of, read_hidden, slice_positions
from harness.engines.transformers.window_scoring import describe_fallback, read_checked

# How many float32 matrices of a slice's logits go into 256 MiB. Comparing holds the room of about
# sixteen (two models' logits, then both in float64); a GPU needs larger slices to be busy.
_MATRICES = {"cpu": 20, "cuda": 2}


class OutputReader:
    """What a model says at some positions; ``slow_because`` is why its states are not enough."""

    def __init__(self, model: Any, inputs: torch.Tensor, positions: torch.Tensor) -> None:
        """``inputs`` (1, length) and ``positions`` are what the model is tried on."""
        self.model = model
        hidden, self._reason = read_checked(model, inputs, positions)
        self.slow_because = self._reason and describe_fallback(model, self._reason)
        self.states = None if hidden is None else hidden.states
        live = logits_at(model, inputs, positions[-1:]) if hidden is None else hidden.live
        self.vocabulary: int = live.shape[-1]
        self.dtype = live.dtype

    def find_plain_head(self) -> tuple[torch.Tensor, torch.Tensor | None] | str:
        """Weight and bias with which any process has this head's logits again; else why not."""
        if self._reason is not None or self.states is None:
            return self._reason or "the model's output head cannot be run by itself"
        head = head_of(self.model)
        weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        if type(weight) is torch.nn.Parameter and weight.dtype == self.states.dtype:
            last = self.states[:, -1:]
            with torch.inference_mode():
                own = head(last)  # type: ignore[misc]
                if torch.equal(own.nan_to_num(), linear(last, weight, bias).nan_to_num()):
                    return weight, bias
        return "the model's output head is no plain linear layer"

    def read_states(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What goes into the head: (rows * positions, width), row after row."""
        hidden = read_hidden(self.model, inputs, positions)
        assert hidden is not None
        return hidden.states.reshape(-1, hidden.states.shape[-1])

    def read_logits(
        self, inputs: torch.Tensor, positions: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Logits (n, vocabulary) slice by slice of the rows * positions tokens, row after row."""
        matrices = _MATRICES.get(inputs.device.type, _MATRICES["cuda"])
        count = len(positions)
        if self.slow_because is None:
            head, states = head_of(self.model), self.read_states(inputs, positions)
            for part in slice_positions(self.vocabulary, matrices, len(states)):
                with torch.inference_mode():
                    logits = head(states[None, part])[0]  # type: ignore[misc]
                yield part, logits
            return
        for number, row in enumerate(inputs):
            for part in slice_positions(self.vocabulary, matrices, count):
                logits = logits_at(self.model, row[None], positions[part])[0]
                yield slice(number * count + part.start, number * count + part.stop), logits
