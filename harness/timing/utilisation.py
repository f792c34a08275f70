"""How much of a device's bandwidth and arithmetic a generation needs and uses. Pure."""

from __future__ import annotations

from harness.engines.base import Work


def step_bytes(work: Work, batch: int, prompt_tokens: int, new_tokens: int) -> int | None:
    """Bytes that a decode step reads: weights, and keys and values at the mean context.

    Step i of the N - 1 reads a context of prompt + i, which is prompt + N/2 on average.
    """
    if work.weight_bytes is None or work.kv_bytes is None:
        return None
    return work.weight_bytes + round(batch * work.kv_bytes * (prompt_tokens + new_tokens / 2))


def prefill_flop(work: Work, batch: int, prompt_tokens: int) -> int | None:
    """Additions and multiplications of reading the prompt.

    Two per weight and token; causal attention 4·width·T²/2 per sequence: products with the
    keys and with the values, half of them masked. The head only at the last position, unless
    the model gives the logits of all.
    """
    if work.layer_weights is None or work.attention_width is None:
        return None
    heads = prompt_tokens if work.head_everywhere else 1
    per_sequence = (
        2 * work.layer_weights * prompt_tokens
        + 2 * work.attention_width * prompt_tokens**2
        + 2 * work.head_weights * heads
    )
    return batch * per_sequence


def share(work: float | None, seconds: float | None, peak: float | None) -> float | None:
    """Work per second over what the device can do; None where one of them is unknown."""
    if work is None or seconds is None or peak is None:
        return None
    return work / (seconds * peak)
