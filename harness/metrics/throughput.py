"""throughput: prefill and decode speed by batch size and prompt length, and what is possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, model_validator

from harness.descriptions import Metric, OptionsBase, Series
from harness.errors import InputError, UnavailableError
from harness.metrics.speed_ratios import compare, explain_shares, remarks
from harness.metrics.speed_repeats import merge_speeds
from harness.metrics.speed_values import (
    CHARTS,
    COMPILED,
    DETAILS,
    HEADLINE,
    OF_PROMPT,
    VALUES,
    WEIGHS,
    split_workload,
)
from harness.records.record import LEFT_OUT, Measured, Record, Validity, Value
from harness.records.values import make_values, qualify

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine, Work
    from harness.timing.roofline import Numbers
    from harness.timing.workloads import TimedWorkload, WorkloadTimer

# How, how often and how many were measured: speeds are compared where both have a value.
_HOW = frozenset(
    {"method", "processes", "min_rounds", "min_time_s", "max_time_s", "roofline", "batch_sizes"}
    | {"also_compiled"}
    | {"cudnn_attention", "attention_kernels"}  # under test: a difference is named, not refused
)
_Tokens = Annotated[int, Field(ge=1)]
_OneOrMore = Annotated[
    Annotated[_Tokens, Tag("one")]
    | Annotated[tuple[_Tokens, ...], Field(min_length=1, strict=False), Tag("more")],
    Discriminator(lambda given: "more" if isinstance(given, (list, tuple)) else "one"),
]


class AlsoCompiled(OptionsBase):
    """Which batch sizes are measured compiled as well, of those given; by default every one.

    ``device: cuda``: not on a CPU, where the compiler may take a minute for each.
    """

    batch_sizes: tuple[int, ...] | None = Field(None, min_length=1, strict=False)
    device: Literal["any", "cuda"] = "any"


class Workload(NamedTuple):
    """One thing to time; ``name`` stands in the brackets of its values."""

    name: str
    batch: int
    prompt_tokens: int
    also_compiled: bool


class Options(OptionsBase):
    """Lengths in tokens, times in seconds; ``prompt_tokens`` may be a list.

    Rounds go on until both ``min_rounds`` and ``min_time_s`` are reached, or, after three rounds,
    ``max_time_s``. Before them a warm-up of at least ``warmup_s`` goes on until its last two
    half-windows agree, or for three times as long and eight rounds. ``cache: static`` keeps keys
    and values in one buffer of the final length, ``compile`` runs decode steps through
    torch.compile. Both are for all values; ``also_compiled`` measures decoding that way too, beside
    the other, as ``decode_tokens_per_s[8 compiled]``. ``cudnn_attention: false`` keeps torch from
    cuDNN's attention, which it prefers on Hopper and Blackwell, ``processes`` repeats all of it in
    as many fresh processes and ``roofline: false`` leaves out what the device can do at best.
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
    also_compiled: AlsoCompiled | None = None
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
        if self.also_compiled is not None:
            if self.compile:
                raise ValueError("`also_compiled` is for a measurement without `compile: true`")
            unknown = set(self.also_compiled.batch_sizes or ()) - set(self.batch_sizes)
            if unknown:
                raise ValueError(
                    f"`also_compiled` names batch size {min(unknown)}, which is not among "
                    f"`batch_sizes` {', '.join(map(str, self.batch_sizes))}"
                )
        return self

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """``prompt_tokens`` as a tuple."""
        given = self.prompt_tokens
        return given if isinstance(given, tuple) else (given,)

    def list_qualifiers(self, per: str) -> tuple[str, ...]:
        """The names of the workloads, or for values per prompt length the names without a batch."""
        names = [workload.name for workload in self.workloads("cuda")]
        if per == "prompt length":
            names = [rest for name in names if (rest := split_workload(name)[1])]
        return tuple(dict.fromkeys(names))

    def workloads(self, device: str) -> Iterator[Workload]:
        """What is timed on ``device``: per prompt length the batch sizes from small to large.

        After one that does not fit the larger ones need not be tried. The compiled ones are the
        last: a compiler that ends the process takes no other number along.
        """
        several = len(self.prompt_lengths) > 1
        compiled: tuple[int, ...] = ()
        also = self.also_compiled
        if also is not None and also.device in ("any", device.partition(":")[0]):
            compiled = also.batch_sizes or self.batch_sizes
        for mode, sizes in (("", self.batch_sizes), (COMPILED, compiled)):
            for prompt_tokens in self.prompt_lengths:
                for batch in sorted(sizes):
                    name = f"{batch}x{prompt_tokens}" if several else str(batch)
                    yield Workload(name + mode, batch, prompt_tokens, bool(mode))


@dataclass
class _Findings:
    """What is measured so far; ``peaks`` is empty where they were tried and did not fit."""

    engine: Engine
    work: Work
    options: Options
    context: MeasureContext
    values: dict[str, Value]
    reasons: list[str]
    method: dict[str, Any]
    samples: dict[str, Any] = field(default_factory=dict)
    attention: dict[str, dict[str, str | None]] = field(default_factory=dict)  # by workload
    peaks: Numbers | None = None

    def as_measured(self) -> Measured:
        found = (*self.reasons, *explain_shares(self.values, self.method)[0])
        return Measured(
            values=dict(self.values),
            protocol={
                **self.options.model_dump(mode="json"),
                "prompt": "random token ids, seed 0",
                "method": dict(self.method),
                "attention_kernels": dict(self.attention),
            },
            samples=dict(self.samples),
            validity=Validity(status="flagged" if found else "ok", reasons=found),
        )

    def keep(self, before: str) -> None:
        if self.samples:
            self.context.keep(self.as_measured(), before)

    def add(self, workload: Workload, timed: TimedWorkload) -> None:
        if not timed.settled:
            self.reasons.append(
                f"batch {workload.name}: warm-up ended before the speed had settled"
            )
        self.samples[workload.name] = timed.samples
        self.values |= _make_values(workload, timed)
        self.attention[workload.name] = timed.attention
        if timed.cuda_graphs_skipped is not None:
            skips = self.method.get("cuda_graphs_skipped", {})
            skipped = {**skips, workload.name: timed.cuda_graphs_skipped}
            self.method["cuda_graphs_skipped"] = skipped
        self._add_shares()

    def take_peaks(self) -> None:
        """Once: later calls do nothing."""
        from harness.timing.roofline import describe_peaks, measure_peaks

        if self.peaks is not None or not self.options.roofline:
            return
        self.keep("the roofline")
        found = measure_peaks(self.engine)
        if isinstance(found, str):
            self.reasons.append(f"out of memory at the roofline: {found}")
        self.peaks = {} if isinstance(found, str) else found
        self.values |= make_values(VALUES, self.peaks)
        self.method |= describe_peaks(self.engine)
        self._add_shares()

    def _add_shares(self) -> None:
        from harness.timing.roofline import compare_with_peaks

        if self.peaks:
            shares = compare_with_peaks(self.peaks, self.work, self.values, self.samples)
            self.values |= make_values(VALUES, shares)


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Time whole rounds of prompt and forced generation, one workload after the other.

    Every round is kept in ``samples``; values are medians. No standard error is given: rounds of
    one process are not independent samples. A batch size that does not fit is reported and larger
    ones are not tried; the others keep their numbers, also if the process dies later. Where
    ``also_compiled`` cannot be compiled, ``method`` says why: that is no flaw of the others.
    """
    from harness.timing.prompts import explain_excess
    from harness.timing.rounds import RoundLimits
    from harness.timing.workloads import WorkloadTimer

    excess = {p: explain_excess(engine, p, options.new_tokens) for p in options.prompt_lengths}
    limits = RoundLimits(
        options.min_rounds, options.min_time_s, options.max_time_s, options.warmup_s
    )
    work = engine.count_work()
    timer = WorkloadTimer(engine, work, limits, options.new_tokens, options.cudnn_attention)
    values = make_values(VALUES, {"load_s": engine.seconds.get("load")})
    reasons = list(filter(None, excess.values()))
    method: dict[str, Any] = {"clock": "perf_counter_ns, device synchronised"}
    found = _Findings(engine, work, options, context, values, reasons, method)
    workloads = [w for w in options.workloads(engine.device) if excess[w.prompt_tokens] is None]
    full: dict[tuple[int, bool], str] = {}  # prompt length and mode -> what did not fit
    for done, workload in enumerate(workloads):
        qualifier = workload.name
        if workload.also_compiled or options.compile:
            found.take_peaks()  # a compiler that fails may leave a process that cannot
        found.keep(f"batch {qualifier}")
        context.progress(done, len(workloads), "batch sizes")
        alike = workload.prompt_tokens, workload.also_compiled
        if alike in full:
            reasons.append(f"batch {qualifier} not tried: batch {full[alike]} did not fit")
            continue
        timed = _time(timer, options, workload)
        if isinstance(timed, UnavailableError):
            method["not_compiled"] = {**method.get("not_compiled", {}), qualifier: str(timed)}
        elif isinstance(timed, str):
            reasons.append(f"out of memory at batch {qualifier}: {timed}")
            full[alike] = qualifier
        else:
            found.add(workload, timed)
    if not found.samples:
        raise InputError("no workload fits: " + "; ".join(reasons))
    found.take_peaks()
    return found.as_measured()


def _time(
    timer: WorkloadTimer, options: Options, workload: Workload
) -> TimedWorkload | str | UnavailableError:
    """What `WorkloadTimer.time` gives, or why the workload cannot be compiled as well."""
    also = workload.also_compiled
    static, compiled = also or options.cache == "static", also or options.compile
    try:
        return timer.time(workload.batch, workload.prompt_tokens, static, compiled)
    except (InputError, UnavailableError) as error:
        if also:
            return UnavailableError(str(error))
        asked = {"`cache: static`": static, "`compile: true`": compiled}
        given = " and ".join(name for name, is_on in asked.items() if is_on)
        raise type(error)(f"{error}; leave out {given}" if given else str(error)) from error


def _make_values(workload: Workload, timed: TimedWorkload) -> dict[str, Value]:
    """The values of one workload; ``n`` counts the rounds of those that are medians."""
    numbers = timed.of_rounds | timed.once
    rounds = dict.fromkeys(timed.of_rounds, len(timed.samples["ttft_s"]))
    made = make_values(VALUES, numbers, n=rounds)
    without = OF_PROMPT if workload.also_compiled else frozenset()
    return {qualify(name, workload.name): made[name] for name in made if name not in without}


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
        mode = COMPILED if workload.endswith(COMPILED) else ""
        decoded = record.protocol["new_tokens"] - 1
        for kind, key, n in (("prefill", "ttft_s", prompt_tokens), ("decode", "decode_s", decoded)):
            speed = record.values.get(f"{kind}_tokens_per_s[{workload}]")
            if speed is None:
                continue
            tokens_per_s = speed.value or 0.0
            extra = {"batch_size": batch, "tokens": batch * n, "tokens_per_s": tokens_per_s}
            name = f"{record.cell.id}::{kind}[{workload}]"
            group = f"{record.cell.model} {kind}{mode}, batch {batch}{prompt}"
            series.append(Series(name, group, tuple(samples[key]), extra))
    return series


METRIC = Metric(
    __doc__ or "",
    Options,
    VALUES,
    measure,
    HEADLINE,
    DETAILS,
    WEIGHS,
    CHARTS,
    needs=frozenset({"open_generator", "count_work", "meter"}),
    how=_HOW,
    least_context=lambda options: max(options.prompt_lengths) + options.new_tokens,
    compare=compare,
    remarks=remarks,
    series=list_series,
    merge_repeats=merge_speeds,
    timed=True,
)
