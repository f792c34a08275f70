"""A model's distributions at some positions of its input, a bounded slice of logits at a time.

Both sides of a comparison are cut into the same slices: a product of another size would differ in
its last bits, and so would a model from itself.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear

from harness.engines.base import PlainHead
from harness.engines.transformers.forward import logits_at, slice_rows
from harness.engines.transformers.head import (
    describe_fallback,
    head_of,
    read_checked,
    read_hidden,
)


class OutputReader:
    """See `harness.engines.base.Outputs`."""

    def __init__(self, model: Any, inputs: torch.Tensor, positions: torch.Tensor) -> None:
        """``inputs`` (1, length) and ``positions`` are an example to try the model on."""
        self._model = model
        hidden, self._no_states = read_checked(model, inputs, positions)
        self.slow_because = self._no_states and describe_fallback(model, self._no_states)
        self._example = None if hidden is None else hidden.states[:, -1:]
        live = logits_at(model, inputs, positions[-1:]) if hidden is None else hidden.live
        self.vocabulary: int = live.shape[-1]
        self.dtype = live.dtype

    def find_plain_head(self) -> PlainHead | str:
        """The head, if a linear layer of its weight and bias gives its very logits."""
        if self._no_states is not None or self._example is None:
            return self._no_states or "the model's output head cannot be run by itself"
        head = head_of(self._model)
        weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
        if type(weight) is torch.nn.Parameter and weight.dtype == self._example.dtype:
            with torch.inference_mode():
                own = head(self._example)  # type: ignore[misc]
                replayed = linear(self._example, weight, bias)
                if torch.equal(own.nan_to_num(), replayed.nan_to_num()):
                    return PlainHead(weight, bias, self._read_states)
        return "the model's output head is no plain linear layer"

    def read_logits(
        self, inputs: torch.Tensor, positions: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Logits (n, vocabulary) slice by slice of the rows * positions tokens, row after row."""
        count = len(positions)
        if self.slow_because is None:
            head, states = head_of(self._model), self._read_states(inputs, positions)
            for part in slice_rows(len(states), self.vocabulary, inputs.device):
                with torch.inference_mode():
                    logits = head(states[None, part])[0]  # type: ignore[misc]
                yield part, logits
            return
        for number, row in enumerate(inputs):
            for part in slice_rows(count, self.vocabulary, inputs.device):
                logits = logits_at(self._model, row[None], positions[part])[0]
                yield slice(number * count + part.start, number * count + part.stop), logits

    def _read_states(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden = read_hidden(self._model, inputs, positions)
        assert hidden is not None
        return hidden.states.reshape(-1, hidden.states.shape[-1])
