"""Speeds from the rounds of one workload. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

# With fewer gaps than this the 99th percentile depends on a handful of them.
_FEWEST_FOR_P99 = 1000


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
        return {"ttft_device_s": None, "tpot_device_s": None}
    return {
        "ttft_device_s": median(first for first, _ in rounds),
        "tpot_device_s": median((last - first) / (new_tokens - 1) for first, last in rounds),
    }


def gaps_of(ready: Sequence[float]) -> list[float]:
    """The seconds between consecutive tokens, to the nanosecond that the clock resolves."""
    return [round(later - earlier, 9) for earlier, later in pairwise(ready)]
