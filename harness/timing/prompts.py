"""Prompts for speed and memory: random token ids, since neither depends on the words."""

from __future__ import annotations

import torch

from harness.engines.base import Engine


def make_prompt(engine: Engine, batch: int, tokens: int) -> torch.Tensor:
    """Random token ids (batch, tokens) from a fixed seed, on the engine's device."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, engine.vocabulary, (batch, tokens), generator=generator)
    return ids.to(engine.device)


def explain_excess(engine: Engine, prompt_tokens: int, new_tokens: int) -> str | None:
    """Why prompt and new tokens are too long for the model's context; None where they fit."""
    limit, tokens = engine.max_context, prompt_tokens + new_tokens
    if limit is None or tokens <= limit:
        return None
    return (
        f"prompt and new tokens make {tokens}, {engine.job.model.name} has a context of {limit}: "
        f"with {new_tokens} new ones `prompt_tokens` may be {max(0, limit - new_tokens)} at most"
    )
