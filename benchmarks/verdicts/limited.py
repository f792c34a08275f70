"""Limits with worlds whose truth is a part of what the limit allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from verdicts.worlds import World, answer_items, diverge, read_chunks, time_processes

_DECODE = "decode_tokens_per_s[1]"


@dataclass(frozen=True)
class Limited:
    """``make(part)`` gives a world and a harm, whose truth is this part of what is allowed.

    ``passes_at_most`` is the target for a truth at or beyond the limit.
    """

    metric: str
    side: Literal["max", "min"]
    bound: float
    make: Callable[[float], tuple[World, float]]
    passes_at_most: float = 0.05


def _drop(n: int, flips: float, limit: float) -> Callable[[float], tuple[World, float]]:
    return lambda part: (answer_items(n, flips), limit * part)


def _ratio(chunks: int, correlation: float, limit: float) -> Callable[[float], tuple[World, float]]:
    world = read_chunks(chunks, 0.02, heavy=bool(correlation), correlation=correlation)
    return lambda part: (world, limit * part)


def _speed(processes: int, limit: float) -> Callable[[float], tuple[World, float]]:
    return lambda part: (time_processes(_DECODE, 0.02, processes, processes), limit * part)


LIMITS = (
    Limited("mmlu.accuracy_drop", "max", 0.02, _drop(300, 0.08, 0.02)),
    Limited("mmlu.accuracy_drop", "max", 0.02, _drop(1000, 0.04, 0.02)),
    Limited("mmlu.accuracy_drop", "max", 0.02, _drop(5000, 0.08, 0.02)),
    # 60 % of the items are right, so that much of an item's loss is a loss of retention.
    Limited("mmlu.retention", "min", 0.95, _drop(1000, 0.08, 0.05 * 0.6)),
    Limited("mmlu.flip_rate", "max", 0.05, lambda part: (answer_items(1000, 0.05 * part), 0.0)),
    Limited("mmlu.flip_rate", "max", 0.05, lambda part: (answer_items(300, 0.05 * part), 0.0)),
    Limited("perplexity.ratio", "max", 1.02, _ratio(60, 0.0, 0.02)),
    Limited("perplexity.ratio", "max", 1.02, _ratio(20, 0.26, 0.02)),
    Limited("perplexity.ratio", "max", 1.02, _ratio(60, 0.42, 0.02)),
    Limited("perplexity.ratio", "max", 1.02, _ratio(300, 0.42, 0.02)),
    *(
        Limited(
            "divergence.kl_mean",
            "max",
            0.05,
            lambda part, n=n: (diverge(n, 0.0, mean=0.05 * part), 0.0),
        )
        for n in (10, 20, 60)
    ),
    Limited("throughput.decode_speedup", "min", 0.9, _speed(3, 0.1)),
    Limited("throughput.decode_speedup", "min", 0.9, _speed(6, 0.1)),
)
