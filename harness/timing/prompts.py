"""Prompts for speed and memory: random token ids, refused or explained where they do not fit."""

from collections.abc import Callable
from typing import TypeVar

import torch

from harness.engines.base import Engine, Work
from harness.engines.shared.available_memory import format_gb, free_bytes
from harness.engines.shared.batches import free_memory, is_out_of_memory

T = TypeVar("T")


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


def least_bytes(work: Work, batch: int, prompt_tokens: int, new_tokens: int) -> int:
    """The least that generating takes on top of the weights, which are held already.

    Token ids, keys and values of the whole length, and the logits of the prompt. Activations are
    left out: how large they are depends on the model's code.
    """
    rows = prompt_tokens if work.head_everywhere else 1
    cache = (prompt_tokens + new_tokens) * (work.kv_bytes or 0)
    return batch * (8 * prompt_tokens + rows * work.logit_bytes + cache)


def within_memory(device: str, least: int, run: Callable[[], T]) -> T | str:
    """``run()``, or a sentence on the memory that it lacked; ``least`` bytes are what it needs.

    On a CPU the kernel would kill the process instead of refusing: there ``run`` is not called
    where ``least`` is more than what is free.
    """
    free = free_bytes(device)
    need = f"it needs at least {format_gb(least)} on top of what is held, " if least else ""
    sentence = f"{need}{format_gb(free)} were free"
    if device == "cpu" and free is not None and least > free:
        return f"{sentence}; not run"
    try:
        return run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    free_memory()  # out here, where the error's frames no longer hold the batch
    return sentence
