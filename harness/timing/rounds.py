"""When a warm-up has settled, how many rounds are enough, and the speeds that they give. Pure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, median
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Clock = Callable[[], float]

_SETTLED = 0.02
_FEWEST_ROUNDS = 3
_ROUNDS_TO_SETTLE = 8
# With fewer gaps than this the 99th percentile depends on a handful of them.
_FEWEST_FOR_P99 = 1000


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
    """Run for ``warmup_s`` and until the speed settles; for three times as long at most.

    The first round starts no clock: kernels are chosen and memory is set aside in it. After it the
    speed has eight rounds to settle in, however long they take: halves of two rounds each may
    differ by chance. ``run`` returns the seconds it took. Returns whether the speed settled.
    """
    run()
    start = clock()
    seconds: list[float] = []
    while True:
        seconds.append(run())
        elapsed = clock() - start
        settled = has_settled(seconds, limits.warmup_s)
        over = elapsed >= 3 * limits.warmup_s and len(seconds) >= _ROUNDS_TO_SETTLE
        if over or (settled and elapsed >= limits.warmup_s):
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


def summarise_rounds(
    rounds: Sequence[Sequence[float]], batch: int, prompt_tokens: int
) -> dict[str, float | None]:
    """Medians over rounds; a round is the seconds at which each new token was ready.

    TPOT = (t_N - t_1)/(N - 1); prefill = batch*prompt/TTFT; decode = batch/TPOT. ITL percentiles
    are over the single gaps of all rounds; a step of the whole batch is one gap.
    """
    ttft = median(ready[0] for ready in rounds)
    tpot = median((ready[-1] - ready[0]) / (len(ready) - 1) for ready in rounds)
    gaps = [gap for ready in rounds for gap in gaps_of(ready)]
    p50, p90, p99 = (float(percentile) for percentile in np.percentile(gaps, (50, 90, 99)))
    return {
        "prefill_tokens_per_s": batch * prompt_tokens / ttft,
        "decode_tokens_per_s": batch / tpot,
        "ttft_s": ttft,
        "tpot_s": tpot,
        "itl_p50_s": p50,
        "itl_p90_s": p90,
        "itl_p99_s": p99 if len(gaps) >= _FEWEST_FOR_P99 else None,
    }


def summarise_device(
    rounds: Sequence[tuple[float, float]], new_tokens: int
) -> dict[str, float | None]:
    """Medians of TTFT and TPOT by the device's own clock; each round's first and last token."""
    if not rounds:
        return dict.fromkeys(("ttft_device_s", "tpot_device_s"))
    return {
        "ttft_device_s": median(first for first, _ in rounds),
        "tpot_device_s": median((last - first) / (new_tokens - 1) for first, last in rounds),
    }


def gaps_of(ready: Sequence[float]) -> list[float]:
    """The seconds between consecutive tokens, to the nanosecond that the clock resolves."""
    return [round(later - earlier, 9) for earlier, later in pairwise(ready)]
