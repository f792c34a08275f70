"""When a warm-up has settled and how many rounds are enough. Worker only.

Any work that gives the seconds it took will do; nothing here knows what a round is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from statistics import fmean
from typing import TypeVar

from pydantic import Field

from harness.descriptions import OptionsBase

T = TypeVar("T")

_SETTLED = 0.02
_FEWEST_ROUNDS = 3


class RoundOptions(OptionsBase):
    """Rounds go on until both ``min_rounds`` and ``min_time_s`` are reached, or ``max_time_s``.

    At least three. Before them a warm-up of at least ``warmup_s`` goes on until its last two
    half-windows agree, or three times as long. Times in seconds.
    """

    min_rounds: int = Field(10, ge=3)
    min_time_s: float = Field(5.0, ge=0)
    max_time_s: float = Field(30.0, ge=0)
    warmup_s: float = Field(2.0, ge=0)


def warm_up(run: Callable[[], float], options: RoundOptions) -> bool:
    """Whether the speed settled within three times ``warmup_s``; ``run`` returns its seconds."""
    start = time.perf_counter()
    seconds: list[float] = []
    while True:
        seconds.append(run())
        elapsed = time.perf_counter() - start
        settled = has_settled(seconds, options.warmup_s)
        if elapsed >= options.warmup_s and (settled or elapsed >= 3 * options.warmup_s):
            return settled


def take_rounds(run: Callable[[], T], options: RoundOptions) -> list[T]:
    """What each round returned, in order; none is dropped."""
    start = time.perf_counter()
    rounds: list[T] = []
    while True:
        rounds.append(run())
        elapsed = time.perf_counter() - start
        enough = len(rounds) >= options.min_rounds and elapsed >= options.min_time_s
        overdue = len(rounds) >= _FEWEST_ROUNDS and elapsed >= options.max_time_s
        if enough or overdue:
            return rounds


def has_settled(seconds: Sequence[float], window_s: float) -> bool:
    """True once both halves of the last ``window_s``, four rounds at least, agree to 2 %.

    What lies before the window does not count: a first round that was slow for its own reasons
    would else keep a long warm-up from settling.
    """
    within = sum(total <= window_s for total in accumulate(reversed(seconds)))
    half = max(4, within) // 2
    if len(seconds) < 2 * half:
        return False
    earlier, later = fmean(seconds[-2 * half : -half]), fmean(seconds[-half:])
    return abs(later / earlier - 1) <= _SETTLED
