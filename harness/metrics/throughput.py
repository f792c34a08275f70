"""throughput: prefill and decode speed by batch size and prompt length, beside what is possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from harness.descriptions import Column, Margin, Metric, ValueSpec
from harness.errors import InputError
from harness.metrics.speed_ratios import (
    compare_speeds,
    judge_shares,
    name_shape,
    tell_smaller_but_slower,
)
from harness.metrics.speed_repeats import merge_speeds
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values, qualify
from harness.timing.rounds import RoundOptions

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine
    from harness.timing.workloads import Timed


_Tokens = Annotated[int, Field(ge=1)]
_OneOrMore = Annotated[
    Annotated[_Tokens, Tag("one")]
    | Annotated[tuple[_Tokens, ...], Field(min_length=1, strict=False), Tag("more")],
    Discriminator(lambda given: "more" if isinstance(given, (list, tuple)) else "one"),
]


class Options(RoundOptions):
    """Lengths in tokens, times in seconds; ``prompt_tokens`` may be a list.

    Rounds go on until both ``min_rounds`` and ``min_time_s`` are reached, or, after three rounds,
    ``max_time_s``. Before them a warm-up of at least ``warmup_s`` goes on until its last two
    half-windows agree, or three times as long. ``cache: static`` keeps keys and values in one
    buffer of the final length, ``compile`` runs decode steps through torch.compile,
    ``processes`` repeats all of it in as many fresh processes and ``roofline: false`` leaves out
    what the device can do at best.
    """

    prompt_tokens: _OneOrMore = 512
    new_tokens: int = Field(64, ge=2)
    batch_sizes: tuple[int, ...] = Field((1,), min_length=1, strict=False)
    cache: Literal["dynamic", "static"] = "dynamic"
    compile: bool = False
    roofline: bool = True
    processes: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _check_lists(self) -> Options:
        if min(self.batch_sizes) < 1 or len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ValueError("batch_sizes must be distinct and at least 1")
        if len(set(self.prompt_lengths)) < len(self.prompt_lengths):
            raise ValueError("prompt_tokens must be distinct")
        if self.compile and self.cache != "static":
            raise ValueError(
                "compile: true needs `cache: static`: over a growing cache every token would be "
                "compiled anew"
            )
        return self

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """``prompt_tokens`` as a tuple."""
        given = self.prompt_tokens
        return given if isinstance(given, tuple) else (given,)

    @property
    def qualifiers(self) -> tuple[str, ...]:
        """The names of the workloads, in brackets behind the names of values."""
        return tuple(qualifier for qualifier, _, _ in self.shapes())

    def shapes(self) -> Iterator[tuple[str, int, int]]:
        """Qualifier, batch size and prompt length; per length the batch sizes from small to large.

        In that order, since one that does not fit spares the larger ones.
        """
        several = len(self.prompt_lengths) > 1
        for prompt_tokens in self.prompt_lengths:
            for batch in sorted(self.batch_sizes):
                yield name_shape(batch, prompt_tokens if several else None), batch, prompt_tokens


# A prompt is a single pass, and so less steady than the many steps of decoding.
_PREFILL, _DECODE = 0.05, 0.03


def _speed(text: str, margin: float) -> ValueSpec:
    return ValueSpec(
        "tokens/s",
        "higher",
        text,
        "batch size",
        sampled="processes",
        margin=Margin(relative=margin),
    )


def _speedup_of(name: str, margin: float) -> ValueSpec:
    return ValueSpec(
        "",
        "higher",
        "over the reference",
        "batch size",
        paired=True,
        of=name,
        neutral=1.0,
        sampled="processes",
        margin=Margin(relative=margin),
    )


def _time(help_text: str, per: str | None = "batch size") -> ValueSpec:
    return ValueSpec("s", "lower", help_text, per, sampled="processes")


VALUES = {
    "prefill_tokens_per_s": _speed("batch*prompt/TTFT", _PREFILL),
    "decode_tokens_per_s": _speed("batch/TPOT", _DECODE),
    "ttft_s": _time("time to first token, median"),
    "tpot_s": _time("time per output token, median"),
    "itl_p50_s": _time("single gap between tokens, over all rounds: median"),
    "itl_p90_s": _time("its 90th percentile"),
    "itl_p99_s": _time("its 99th percentile, from 1,000 gaps on"),
    "ttft_device_s": _time("time to first token by CUDA events"),
    "tpot_device_s": _time("time per output token by CUDA events"),
    "compile_s": _time("torch.compile, and the first generation with it"),
    "energy_j_per_token": ValueSpec(
        "J", "lower", "of the whole GPU per new token, prompt included", "batch size",
        sampled="processes",
    ),
    "step_bytes": ValueSpec(
        "bytes", "lower", "read per decode step: weights, and cache at the mean context",
        "batch size",
    ),
    "mbu": ValueSpec(
        "", "higher", "step_bytes/TPOT over the bandwidth", "batch size", sampled="processes"
    ),
    "prefill_flop_utilisation": ValueSpec(
        "", "higher", "FLOP of the prompt/TTFT over the matmul peak", "batch size",
        sampled="processes",
    ),
    "load_s": _time("loading the model", None),
    "bandwidth_bytes_per_s": ValueSpec("bytes/s", None, "copy in this process, read plus write"),
    "matmul_flop_per_s": ValueSpec("FLOP/s", None, "matrix product in this process, at best"),
    "prefill_speedup": _speedup_of("prefill_tokens_per_s", _PREFILL),
    "decode_speedup": _speedup_of("decode_tokens_per_s", _DECODE),
    "step_bytes_ratio": ValueSpec(
        "", "lower", "over the reference's", "batch size", paired=True, of="step_bytes", neutral=1.0
    ),
    "pays_from_batch": ValueSpec(
        "sequences",
        "lower",
        "from this batch size on decoding is no slower than the reference's",
        "prompt length",
        paired=True,
        neutral=None,
    ),
}  # fmt: skip
HEADLINE = (
    Column("prefill\ntok/s b{}", "prefill_tokens_per_s", ",.0f"),
    Column("decode\ntok/s b{}", "decode_tokens_per_s", ",.1f"),
    Column("decode\n×ref b{}", "decode_speedup", ".2f", stderr=True),
)
DETAILS = (
    Column("load\ns", "load_s", ".2f"),
    Column("copy\nGB/s", "bandwidth_bytes_per_s", ",.1f", 1e9),
    Column("products\nTFLOP/s", "matmul_flop_per_s", ",.2f", 1e12),
    Column("TTFT\nms", "ttft_s", ",.2f", 1e-3),
    Column("TPOT\nms", "tpot_s", ",.2f", 1e-3),
    Column("ITL p50\nms", "itl_p50_s", ",.2f", 1e-3),
    Column("ITL p90\nms", "itl_p90_s", ",.2f", 1e-3),
    Column("ITL p99\nms", "itl_p99_s", ",.2f", 1e-3),
    Column("MBU", "mbu", ".2f"),
    Column("prefill\nFLOP share", "prefill_flop_utilisation", ".2f"),
    Column("J per\ntoken", "energy_j_per_token", ".3f"),
)


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Time whole rounds of prompt and forced generation, one shape after the other.

    Every round is kept in ``samples``; values are medians. No standard error is given: rounds of
    one process are not independent samples. A batch size that does not fit is reported, larger
    ones are not tried, and the others stand; so do they should the process die later.
    """
    from harness.timing.prompts import explain_excess
    from harness.timing.workloads import ShapeTimer

    excess = {p: explain_excess(engine, p, options.new_tokens) for p in options.prompt_lengths}
    if all(excess.values()):
        raise InputError("; ".join(filter(None, excess.values())))
    timer = ShapeTimer(engine, options)
    found = _Found(options, engine.seconds)
    found.reasons += [why for why in excess.values() if why is not None]
    shapes = [shape for shape in options.shapes() if excess[shape[2]] is None]
    full: dict[int, str] = {}  # prompt length -> what did not fit
    for done, (qualifier, batch, prompt_tokens) in enumerate(shapes):
        if found.samples:
            context.keep(found.as_measured(), f"batch {qualifier}")
        context.progress(done, len(shapes), "batch sizes")
        if prompt_tokens in full:
            found.reasons.append(f"batch {qualifier} not tried: {full[prompt_tokens]} did not fit")
            continue
        timed = timer.time(batch, prompt_tokens)
        if isinstance(timed, str):
            found.reasons.append(f"out of memory at batch {qualifier}: {timed}")
            full[prompt_tokens] = f"batch {qualifier}"
        else:
            found.add(qualifier, timed)
    if not found.samples:
        raise InputError("no batch size fits: " + "; ".join(found.reasons))
    if options.roofline:
        context.keep(found.as_measured(), "the roofline")
        peaks = timer.compare_with_peaks(found.numbers, found.samples)
        if isinstance(peaks, str):
            found.reasons.append(f"out of memory at the roofline: {peaks}")
        else:
            found.numbers |= peaks
        found.method |= timer.describe_peaks()
    return found.as_measured()


class _Found:
    """What is measured so far."""

    def __init__(self, options: Options, seconds: Mapping[str, float]) -> None:
        self.numbers: dict[str, int | float | None] = {}
        self.samples: dict[str, Any] = {}
        self.reasons: list[str] = []
        self.method: dict[str, Any] = {"clock": "perf_counter_ns, device synchronised"}
        self._options = options
        self._loading = {"load_s": seconds.get("load")}
        self._counts: dict[str, int] = {}

    def add(self, qualifier: str, timed: Timed) -> None:
        """Values and rounds of one shape."""
        if not timed.settled:
            self.reasons.append(f"batch {qualifier}: warm-up ended before the speed had settled")
        values = {**timed.from_rounds, **timed.others}
        self.numbers |= {qualify(name, qualifier): value for name, value in values.items()}
        self._counts |= {qualify(name, qualifier): timed.rounds for name in timed.from_rounds}
        self.samples[qualifier] = timed.samples

    def as_measured(self) -> Measured:
        """A measurement of its own, whatever is found later."""
        numbers = {**self.numbers, **self._loading}
        reasons = (*self.reasons, *_judge(numbers, self.method)[0])
        return Measured(
            values=make_values(VALUES, numbers, n=self._counts),
            protocol={
                **self._options.model_dump(mode="json"),
                "prompt": "random token ids, seed 0",
                "method": dict(self.method),
            },
            samples=dict(self.samples),
            validity=Validity(status="flagged" if reasons else "ok", reasons=reasons),
        )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Ratios of the medians, per batch size that both have, and from which one it pays."""
    return compare_speeds(candidate, reference, VALUES)


def merge_processes(measured: Sequence[Measured]) -> Measured:
    """One measurement of several processes: geometric means, with the interval over processes."""
    return merge_speeds(measured)


def remarks(record: Record) -> list[str]:
    """Smaller but slower; and shares of a peak above 1 that have an explanation."""
    numbers = {name: value.value for name, value in record.values.items()}
    explained = _judge(numbers, record.protocol.get("method", {}))[1]
    return [*tell_smaller_but_slower(record), *explained]


def _judge(
    numbers: Mapping[str, int | float | None], method: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    return judge_shares(
        numbers, method.get("last_level_cache_bytes"), method.get("products") == "int8"
    )


METRIC = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"open_generator", "count_work", "meter"}),
    details=DETAILS,
    compare=compare,
    remarks=remarks,
    merge_repeats=merge_processes,
    timed=True,
)
