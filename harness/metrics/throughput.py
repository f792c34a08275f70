"""throughput: prefill and decode speed by batch size and prompt length, and what is possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from harness.descriptions import Metric, OptionsBase, Series
from harness.errors import InputError
from harness.metrics.speed_ratios import compare, explain_shares, remarks
from harness.metrics.speed_repeats import merge_speeds
from harness.metrics.speed_values import DETAILS, HEADLINE, VALUES
from harness.records.record import LEFT_OUT, Measured, Record, Validity, Value
from harness.records.values import make_values, qualify

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine
    from harness.timing.workloads import TimedWorkload

# How, how often and how many were measured: speeds are compared where both have a value.
_HOW = frozenset(
    {"method", "processes", "min_rounds", "min_time_s", "max_time_s", "roofline", "batch_sizes"}
    | {"cudnn_attention", "attention_kernels"}  # under test: a difference is named, not refused
)
_Tokens = Annotated[int, Field(ge=1)]
_OneOrMore = Annotated[
    Annotated[_Tokens, Tag("one")]
    | Annotated[tuple[_Tokens, ...], Field(min_length=1, strict=False), Tag("more")],
    Discriminator(lambda given: "more" if isinstance(given, (list, tuple)) else "one"),
]


class Options(OptionsBase):
    """Lengths in tokens, times in seconds; ``prompt_tokens`` may be a list.

    Rounds go on until both ``min_rounds`` and ``min_time_s`` are reached, or, after three rounds,
    ``max_time_s``. Before them a warm-up of at least ``warmup_s`` goes on until its last two
    half-windows agree, or for three times as long and eight rounds. ``cache: static`` keeps keys
    and values in one buffer of the final length, ``compile`` runs decode steps through
    torch.compile, ``cudnn_attention: false`` keeps torch from cuDNN's attention, which it prefers
    on Hopper and Blackwell, ``processes`` repeats all of it in as many fresh processes and
    ``roofline: false`` leaves out what the device can do at best.
    """

    prompt_tokens: _OneOrMore = 512
    new_tokens: int = Field(64, ge=2)
    batch_sizes: tuple[int, ...] = Field((1,), min_length=1, strict=False)
    min_rounds: int = Field(10, ge=3)
    min_time_s: float = Field(5.0, ge=0)
    max_time_s: float = Field(30.0, ge=0)
    warmup_s: float = Field(2.0, ge=0)
    cache: Literal["dynamic", "static"] = "dynamic"
    compile: bool = False
    cudnn_attention: bool = True
    roofline: bool = True
    processes: int = Field(1, ge=1)
    REPEATS: ClassVar[str | None] = "processes"

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

    def list_qualifiers(self, per: str) -> tuple[str, ...]:
        """The names of the workloads, or for values per prompt length the lengths."""
        if per == "prompt length":
            return tuple(map(str, self.prompt_lengths))
        return tuple(qualifier for qualifier, _, _ in self.workloads())

    def workloads(self) -> Iterator[tuple[str, int, int]]:
        """Qualifier, batch size and prompt length; per length the batch sizes from small to large.

        In that order, so that after one that does not fit the larger ones need not be tried.
        """
        several = len(self.prompt_lengths) > 1
        for prompt_tokens in self.prompt_lengths:
            for batch in sorted(self.batch_sizes):
                name = f"{batch}x{prompt_tokens}" if several else str(batch)
                yield name, batch, prompt_tokens


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Time whole rounds of prompt and forced generation, one workload after the other.

    Every round is kept in ``samples``; values are medians. No standard error is given: rounds of
    one process are not independent samples. A batch size that does not fit is reported and larger
    ones are not tried; the others keep their numbers, also if the process dies later.
    """
    from harness.timing.prompts import explain_excess
    from harness.timing.roofline import compare_with_peaks, describe_peaks
    from harness.timing.rounds import RoundLimits
    from harness.timing.workloads import WorkloadTimer

    excess = {p: explain_excess(engine, p, options.new_tokens) for p in options.prompt_lengths}
    limits = RoundLimits(
        options.min_rounds, options.min_time_s, options.max_time_s, options.warmup_s
    )
    work, static = engine.count_work(), options.cache == "static"
    switches = (static, options.compile, options.cudnn_attention)
    timer = WorkloadTimer(engine, work, limits, options.new_tokens, *switches)
    values = make_values(VALUES, {"load_s": engine.seconds.get("load")})
    samples: dict[str, Any] = {}
    attention: list[dict[str, str | None]] = []  # by workload
    reasons = list(filter(None, excess.values()))
    method: dict[str, Any] = {"clock": "perf_counter_ns, device synchronised"}

    def as_measured() -> Measured:
        """What is measured so far."""
        found = (*reasons, *explain_shares(values, method)[0])
        return Measured(
            values=dict(values),
            protocol={
                **options.model_dump(mode="json"),
                "prompt": "random token ids, seed 0",
                "method": dict(method),
                "attention_kernels": _join_kernels(attention),
            },
            samples=dict(samples),
            validity=Validity(status="flagged" if found else "ok", reasons=found),
        )

    workloads = [each for each in options.workloads() if excess[each[2]] is None]
    full: dict[int, str] = {}  # prompt length -> the qualifier that did not fit
    for done, (qualifier, batch, prompt_tokens) in enumerate(workloads):
        if samples:
            context.keep(as_measured(), f"batch {qualifier}")
        context.progress(done, len(workloads), "batch sizes")
        if prompt_tokens in full:
            reasons.append(f"batch {qualifier} not tried: batch {full[prompt_tokens]} did not fit")
            continue
        timed = timer.time(batch, prompt_tokens)
        if isinstance(timed, str):
            reasons.append(f"out of memory at batch {qualifier}: {timed}")
            full[prompt_tokens] = qualifier
            continue
        if not timed.settled:
            reasons.append(f"batch {qualifier}: warm-up ended before the speed had settled")
        samples[qualifier] = timed.samples
        values |= _make_values(qualifier, timed)
        attention.append(timed.attention)
    if not samples:
        raise InputError("no workload fits: " + "; ".join(reasons))
    if options.roofline:
        context.keep(as_measured(), "the roofline")
        peaks = compare_with_peaks(engine, work, values, samples)
        if isinstance(peaks, str):
            reasons.append(f"out of memory at the roofline: {peaks}")
        else:
            values |= make_values(VALUES, peaks)
        method |= describe_peaks(engine)
    return as_measured()


def _join_kernels(workloads: Sequence[Mapping[str, str | None]]) -> dict[str, str | None]:
    """By kind of pass, the kernels of all workloads; None where attention is not torch's."""
    kinds = dict.fromkeys(kind for kernels in workloads for kind in kernels)
    return {
        kind: ", ".join(sorted({k for w in workloads if (k := w.get(kind))})) or None
        for kind in kinds
    }


def _make_values(qualifier: str, timed: TimedWorkload) -> dict[str, Value]:
    """The values of one workload; ``n`` counts the rounds of those that are medians."""
    numbers = timed.of_rounds | timed.once
    rounds = dict.fromkeys(timed.of_rounds, len(timed.samples["ttft_s"]))
    made = make_values(VALUES, numbers, n=rounds)
    return {qualify(name, qualifier): value for name, value in made.items()}


def list_series(record: Record) -> list[Series]:
    """Prefill and decode per workload; empty for a record without timings.

    Rounds of several processes are one series; those of an invalid process are left out.
    """
    series = []
    for workload, samples in record.samples.items():
        if workload == LEFT_OUT:
            continue
        batch, prompt_tokens = samples["batch_size"], samples["prompt_tokens"]
        prompt = f", prompt {prompt_tokens}" if "x" in workload else ""
        decoded = record.protocol["new_tokens"] - 1
        for kind, key, n in (("prefill", "ttft_s", prompt_tokens), ("decode", "decode_s", decoded)):
            speed = record.values[f"{kind}_tokens_per_s[{workload}]"].value or 0.0
            extra = {"batch_size": batch, "tokens": batch * n, "tokens_per_s": speed}
            name = f"{record.cell.id}::{kind}[{workload}]"
            group = f"{record.cell.model} {kind}, batch {batch}{prompt}"
            series.append(Series(name, group, tuple(samples[key]), extra))
    return series


METRIC = Metric(
    __doc__ or "",
    Options,
    VALUES,
    measure,
    HEADLINE,
    DETAILS,
    needs=frozenset({"open_generator", "count_work", "meter"}),
    how=_HOW,
    compare=compare,
    remarks=remarks,
    series=list_series,
    merge_repeats=merge_speeds,
    timed=True,
)
