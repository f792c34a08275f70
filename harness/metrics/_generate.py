"""Forced greedy generation over the model's own cache, timed token by token. Worker only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from harness.errors import InputError
from harness.metrics._forward import keeps_logits

if TYPE_CHECKING:
    import torch

    from harness.models.load import LoadedCell


def make_prompt(model: Any, batch: int, tokens: int, device: str) -> torch.Tensor:
    """Random token ids (batch, tokens) from a fixed seed: speed does not depend on the words."""
    import torch

    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    return torch.randint(0, vocabulary, (batch, tokens), generator=generator).to(device)


def generate(model: Any, prompt: torch.Tensor, new_tokens: int) -> tuple[torch.Tensor, list[float]]:
    """Greedy tokens (batch, new_tokens) and the seconds at which each was ready.

    The end-of-text token does not stop it. The device is synchronised before every reading of
    the clock, so stalls of the host count, as they do for a user.
    """
    import torch

    keep = {"logits_to_keep": 1} if keeps_logits(model) else {}
    synchronise = _synchroniser(prompt.device)
    tokens, ready, cache = [], [], None
    inputs = prompt
    with torch.inference_mode():
        synchronise()
        start = time.perf_counter_ns()
        for _ in range(new_tokens):
            output = model(input_ids=inputs, past_key_values=cache, use_cache=True, **keep)
            cache = output.past_key_values
            inputs = output.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(inputs)
            synchronise()
            ready.append((time.perf_counter_ns() - start) / 1e9)
        return torch.cat(tokens, dim=1), ready


def check_context(loaded: LoadedCell, tokens: int) -> None:
    """Refuse a prompt and generation longer than the model's context."""
    limit = loaded.max_context
    if limit is not None and tokens > limit:
        raise InputError(
            f"prompt and new tokens make {tokens}, {loaded.job.model.name} has a context of {limit}"
        )


def _synchroniser(device: torch.device) -> Any:
    import torch

    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
