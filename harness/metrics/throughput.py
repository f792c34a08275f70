"""throughput: prefill and decode speed by batch size, from rounds of forced generation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from harness.errors import InputError
from harness.metrics._forward import is_out_of_memory
from harness.metrics._generate import check_context, generate, make_prompt
from harness.options import Column, OptionsBase, ValueSpec
from harness.record import Measured, Record, Validity, Value
from harness.values import base_name, divide, make_values, qualify

if TYPE_CHECKING:
    from harness.metrics._forward import MeasureContext
    from harness.models.load import LoadedCell

NEEDS_FRESH_PROCESS = False
REFERENCE_REUSABLE = False


class Options(OptionsBase):
    """Lengths in tokens, times in seconds.

    Rounds go on until both ``min_rounds`` and ``min_time_s`` are reached, or, after three rounds,
    ``max_time_s``. Before them a warm-up of at least ``warmup_s`` goes on until its last two
    half-windows agree, or three times as long.
    """

    prompt_tokens: int = Field(512, ge=1)
    new_tokens: int = Field(64, ge=2)
    batch_sizes: tuple[int, ...] = Field((1,), min_length=1, strict=False)
    min_rounds: int = Field(10, ge=3)
    min_time_s: float = Field(5.0, ge=0)
    max_time_s: float = Field(30.0, ge=0)
    warmup_s: float = Field(2.0, ge=0)

    @model_validator(mode="after")
    def _check_batches(self) -> Options:
        if min(self.batch_sizes) < 1 or len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ValueError("batch_sizes must be distinct and at least 1")
        return self


def _speedup_of(name: str) -> ValueSpec:
    return ValueSpec(
        "", "higher", "over the reference", "batch size", paired=True, of=name, neutral=1.0
    )


VALUES = {
    "prefill_tokens_per_s": ValueSpec("tokens/s", "higher", "batch*prompt/TTFT", "batch size"),
    "decode_tokens_per_s": ValueSpec("tokens/s", "higher", "batch/TPOT", "batch size"),
    "ttft_s": ValueSpec("s", "lower", "time to first token, median", "batch size"),
    "tpot_s": ValueSpec("s", "lower", "time per output token, median", "batch size"),
    "prefill_speedup": _speedup_of("prefill_tokens_per_s"),
    "decode_speedup": _speedup_of("decode_tokens_per_s"),
}
HEADLINE = (
    Column("prefill\ntok/s", "prefill_tokens_per_s", ",.0f"),
    Column("decode\ntok/s", "decode_tokens_per_s", ",.1f"),
    Column("decode\n×ref", "decode_speedup", ".2f"),
)
_SETTLED = 0.02
_FEWEST_ROUNDS = 3


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """Time whole rounds of prompt and forced generation, one batch size after the other.

    Every round is kept in ``samples``; values are medians. No standard error is given: rounds of
    one process are not independent samples. A batch size that does not fit is reported and the
    others stand.
    """
    check_context(loaded, options.prompt_tokens + options.new_tokens)
    numbers: dict[str, int | float | None] = {}
    counts: dict[str, int] = {}
    samples: dict[str, Any] = {}
    reasons: list[str] = []
    for done, batch in enumerate(options.batch_sizes):
        context.progress(done, len(options.batch_sizes), "batch sizes")
        try:
            rounds, settled = _time_rounds(loaded, options, batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reasons.append(f"out of memory at batch {batch}")
            continue
        if not settled:
            reasons.append(f"batch {batch}: warm-up ended before the speed had settled")
        speeds = summarise_rounds(rounds, batch, options.prompt_tokens)
        numbers |= {qualify(name, batch): value for name, value in speeds.items()}
        counts |= {qualify(name, batch): len(rounds) for name in speeds}
        samples[str(batch)] = {
            "ttft_s": [ready[0] for ready in rounds],
            "decode_s": [ready[-1] - ready[0] for ready in rounds],
        }
    if not samples:
        raise InputError("no batch size fits: " + "; ".join(reasons))
    return Measured(
        values=make_values(VALUES, numbers, n=counts),
        protocol={**options.model_dump(mode="json"), "prompt": "random token ids, seed 0"},
        samples=samples,
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Ratios of the medians, per batch size that both have."""
    numbers = {}
    for name in candidate.values:
        for kind in ("prefill", "decode"):
            if base_name(name) == f"{kind}_tokens_per_s":
                ratio = divide(candidate, reference, name)
                if ratio is not None:
                    numbers[name.replace("tokens_per_s", "speedup")] = ratio
    return make_values(VALUES, numbers)


def summarise_rounds(
    rounds: Sequence[Sequence[float]], batch: int, prompt_tokens: int
) -> dict[str, float]:
    """Medians over rounds; a round is the seconds at which each new token was ready.

    TPOT = (t_N - t_1)/(N - 1); prefill = batch*prompt/TTFT; decode = batch/TPOT.
    """
    ttft = median(ready[0] for ready in rounds)
    tpot = median((ready[-1] - ready[0]) / (len(ready) - 1) for ready in rounds)
    return {
        "prefill_tokens_per_s": batch * prompt_tokens / ttft,
        "decode_tokens_per_s": batch / tpot,
        "ttft_s": ttft,
        "tpot_s": tpot,
    }


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


def _time_rounds(
    loaded: LoadedCell, options: Options, batch: int
) -> tuple[list[list[float]], bool]:
    """Rounds after the warm-up, and whether the warm-up settled within three times its length."""
    prompt = make_prompt(loaded.model, batch, options.prompt_tokens, loaded.device)

    def run_round() -> list[float]:
        return generate(loaded.model, prompt, options.new_tokens)[1]

    start = time.perf_counter()
    warmup: list[float] = []
    while True:
        warmup.append(run_round()[-1])
        elapsed = time.perf_counter() - start
        settled = has_settled(warmup, options.warmup_s)
        if elapsed >= options.warmup_s and (settled or elapsed >= 3 * options.warmup_s):
            break
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while True:
        rounds.append(run_round())
        elapsed = time.perf_counter() - start
        enough = len(rounds) >= options.min_rounds and elapsed >= options.min_time_s
        overdue = len(rounds) >= _FEWEST_ROUNDS and elapsed >= options.max_time_s
        if enough or overdue:
            return rounds, settled
