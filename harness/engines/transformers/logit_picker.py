"""Logits of single positions of a padded batch, with no other position going through the head."""

from collections.abc import Callable
from typing import Any

import torch

from harness.engines.transformers.forward import keeps_logits
from harness.engines.transformers.head import head_of

Place = tuple[int, int]  # row of the batch, position in the row


class LogitPicker:
    """Picks hidden states on their way into a model's head.

    Changes that a model makes to its logits behind the head still happen. ``picks`` turns False
    where not as many logits come out as states went in: then all positions go through the head.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.picks = True
        self._model, self._device = model, device

    def read(
        self,
        ids: torch.Tensor,
        places: list[Place],
        keep_cache: bool,
        open_cache: Callable[[], Any] | None = None,
        **named: Any,
    ) -> tuple[torch.Tensor, Any]:
        """Logits (len(places), vocabulary) of one pass of ``ids`` (rows, length), and its cache.

        ``open_cache`` makes the cache that the pass goes on from; ``named`` go to the model.
        """
        places = places or [(0, ids.shape[1] - 1)]  # an empty choice of positions would mean all
        given = {**named, "use_cache": keep_cache or open_cache is not None}
        if open_cache is not None:
            given["past_key_values"] = open_cache()
        kept = list(range(ids.shape[1]))
        if keeps_logits(self._model):
            kept = sorted({position for _, position in places})
            given["logits_to_keep"] = torch.tensor(kept, device=self._device)
        column = {position: i for i, position in enumerate(kept)}
        rows = torch.tensor([row for row, _ in places], device=self._device)
        columns = torch.tensor([column[position] for _, position in places], device=self._device)
        picked = []

        def pick(_: Any, states: tuple[Any, ...]) -> tuple[Any, ...] | None:
            size = (ids.shape[0], len(kept))
            if not states or getattr(states[0], "shape", ())[:2] != size:
                return None
            picked.append(True)
            return (states[0][rows, columns][None], *states[1:])

        head = head_of(self._model) if self.picks else None
        hook = None if head is None else head.register_forward_pre_hook(pick)
        try:
            output = self._model(input_ids=ids.to(self._device), **given)
        finally:
            if hook is not None:
                hook.remove()
        logits, cache = output.logits, getattr(output, "past_key_values", None)
        self.picks = bool(picked) and logits.shape[:2] == (1, len(places))
        if self.picks:
            return logits[0], cache
        if picked:  # and not usable: again, with all positions through the head
            del output, logits, cache
            return self.read(ids, places, keep_cache, open_cache, **named)
        return logits[rows, columns], cache
