"""When a warm-up has settled and how many rounds are enough, for any work that can be timed.

METHOD: a warm-up ends once the speed has settled; rounds go on for a minimum of rounds and time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import TypeVar

T = TypeVar("T")
Clock = Callable[[], float]

_SETTLED = 0.02
_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class RoundLimits:
    """How long to go on; times in seconds. `warm_up` and `take_rounds` say what each limit does."""

    min_rounds: int
    min_time_s: float
    max_time_s: float
    warmup_s: float


def warm_up(
    run: Callable[[], float], limits: RoundLimits, clock: Clock = time.perf_counter
) -> bool:
    """Run for ``warmup_s``, then until the speed settles, for three times as long at most.

    ``run`` returns the seconds it took. Returns whether the speed settled.
    """
    start = clock()
    seconds: list[float] = []
    while True:
        seconds.append(run())
        elapsed = clock() - start
        settled = has_settled(seconds, limits.warmup_s)
        if elapsed >= limits.warmup_s and (settled or elapsed >= 3 * limits.warmup_s):
            return settled


def take_rounds(
    run: Callable[[], T], limits: RoundLimits, clock: Clock = time.perf_counter
) -> list[T]:
    """Results until both ``min_rounds`` and ``min_time_s`` are reached, or ``max_time_s``.

    At least three; in order, none is dropped.
    """
    start = clock()
    rounds: list[T] = []
    while True:
        rounds.append(run())
        elapsed = clock() - start
        enough = len(rounds) >= limits.min_rounds and elapsed >= limits.min_time_s
        overdue = len(rounds) >= _FEWEST_ROUNDS and elapsed >= limits.max_time_s
        if enough or overdue:
            return rounds


def has_settled(seconds: Sequence[float], window_s: float) -> bool:
    """Whether both halves of the last ``window_s``, four rounds at least, agree to 2 %.

    Rounds before the window do not count: otherwise a slow first round would keep a long warm-up
    from settling.
    """
    within = sum(total <= window_s for total in accumulate(reversed(seconds)))
    half = max(4, within) // 2
    if len(seconds) < 2 * half:
        return False
    earlier, later = fmean(seconds[-2 * half : -half]), fmean(seconds[-half:])
    return abs(later / earlier - 1) <= _SETTLED
