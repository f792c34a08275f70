"""Limits with worlds whose truth is a part of what the limit allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from numpy.random import Generator

from harness.suite.models import Limit
from verdicts.judges import draw_pair, judge_by_limits
from verdicts.worlds import (
    Tail,
    World,
    answer_items,
    diverge,
    read_chunks,
    rename,
    time_processes,
)

_DECODE = "decode_tokens_per_s[1]"


@dataclass(frozen=True)
class Limited:
    """``make(part)`` gives a world and a harm, whose truth is this part of what is allowed.

    ``passes_at_most`` is the target for a truth at or beyond the limit; None where few chunks
    cannot show what a distribution without a skewness hides.
    """

    metric: str
    side: Literal["max", "min"]
    bound: float
    make: Callable[[float], tuple[World, float]]
    passes_at_most: float | None = 0.05


def _drop(n: int, flips: float, limit: float) -> Callable[[float], tuple[World, float]]:
    return lambda part: (answer_items(n, flips), limit * part)


def _ratio(chunks: int, correlation: float, limit: float) -> Callable[[float], tuple[World, float]]:
    world = read_chunks(chunks, 0.02, heavy=bool(correlation), correlation=correlation)
    return lambda part: (world, limit * part)


def _speed(processes: int, limit: float) -> Callable[[float], tuple[World, float]]:
    return lambda part: (time_processes(_DECODE, 0.02, processes, processes), limit * part)


def _kl(chunks: int, tail: Tail, shape: float, correlation: float = 0.0, **target: None) -> Limited:
    def make(part: float) -> tuple[World, float]:
        return diverge(chunks, 0.0, shape, 0.05 * part, tail, correlation), 0.0

    return Limited("divergence.kl_mean", "max", 0.05, make, **target)


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
    *(_kl(n, "gamma", 4.0) for n in (10, 20, 60)),
    *(_kl(n, "lognormal", shape) for shape in (4.0, 1.0) for n in (10, 20, 60, 300)),
    *(_kl(n, tail, 4.0, 0.42) for tail in ("gamma", "lognormal") for n in (20, 60)),
    *(_kl(n, "Pareto", 4 / 3, passes_at_most=None) for n in (20, 300)),
    # 60 % of the items are right in the first run.
    Limited(
        "mmlu.acc", "min", 0.55, lambda part: (answer_items(1000, 0.08, sampled=True), 0.05 * part)
    ),
    Limited("throughput.decode_speedup", "min", 0.9, _speed(3, 0.1)),
    Limited("throughput.decode_speedup", "min", 0.9, _speed(6, 0.1)),
)

# 30 limits of one suite: ten models, each with three kinds that a night may break by chance.
A_SUITE = tuple(LIMITS[i] for i in (0, 1, 3, 4, 6, 9, 12, -5, -2, -1)) * 3


def breaks_any(suite: Sequence[Limited], part: float, rng: Generator) -> bool:
    """Whether any of the limits of one suite fails in a night, each on a model of its own."""
    limits = [
        Limit.model_validate(
            {"precision": ("nf4",), "model": (f"m{i}",), "metric": one.metric, one.side: one.bound}
        )
        for i, one in enumerate(suite)
    ]
    return any(
        verdict.verdict == "FAIL"
        for i, one in enumerate(suite)
        for world, harm in [one.make(part)]
        for later, first in [draw_pair(world, rng, harm)]
        for verdict in judge_by_limits(limits, rename(later, f"m{i}"), first)
    )
