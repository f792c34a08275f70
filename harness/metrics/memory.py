"""memory: peak bytes by phase (load, prefill, generate), in a process of its own.

Also recorded: what the allocator and the device hold, the bytes of the key-value cache per token,
and from the growth over short prompts the largest context and batch on cards of several sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from harness.descriptions import Column, Margin, Metric, OptionsBase, ValueSpec
from harness.errors import InputError
from harness.metrics.capacity import CARDS, fit_growth, largest_batch, largest_context
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import divide, make_values, qualify

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine
    from harness.timing.phases import Phase, PhaseReader


class Options(OptionsBase):
    """Lengths in tokens."""

    prompt_tokens: int = Field(512, ge=1)
    new_tokens: int = Field(64, ge=2)
    batch_size: int = Field(1, ge=1)


_PHASES = {
    "load_peak": "highest while loading",
    "weights": "held after loading",
    "prefill_peak": "highest while reading the prompt",
    "generate_peak": "highest while generating",
    "peak": "highest of all phases",
}
# Peaks of one cell in two processes differ by less: a CPU's allocator keeps most of a megabyte here
# and there, however small the model.
_MARGIN = Margin(absolute=1 << 20, relative=0.02)
_NOISE_BYTES = 8 << 20  # a growth below this is too near to that to be extrapolated


def _bytes(text: str, margin: Margin | None = None) -> ValueSpec:
    return ValueSpec("bytes", "lower", text, margin=margin)


def _ratio_of(name: str) -> ValueSpec:
    return ValueSpec(
        "", "lower", "over the reference's", paired=True, of=name, neutral=1.0, margin=_MARGIN
    )


VALUES = {
    **{f"{name}_bytes": _bytes(text, _MARGIN) for name, text in _PHASES.items()},
    **{f"{name}_ratio": _ratio_of(f"{name}_bytes") for name in _PHASES},
    "reserved_peak_bytes": _bytes("most that CUDA's allocator has reserved"),
    "device_used_bytes": _bytes("growth of the whole GPU's use since before this process"),
    "load_anonymous_bytes": _bytes("RssAnon after loading: on a CPU, without mapped files"),
    "generate_anonymous_bytes": _bytes("RssAnon at the last new token"),
    "kv_bytes_per_token": _bytes("keys and values per token and sequence, from the config"),
    "kv_bytes_per_token_measured": _bytes("growth of the model's cache per token and sequence"),
    "largest_context": ValueSpec(
        "tokens", "higher", "longest prompt that fits the card and the model at batch 1", "card"
    ),
    "largest_batch": ValueSpec(
        "sequences", "higher", "most sequences of prompt_tokens + new_tokens that fit it", "card"
    ),
}
HEADLINE = (Column("peak MB", "peak_bytes", ".1f", 1e6), Column("×ref", "peak_ratio", ".2f"))
DETAILS = (
    Column("load\npeak MB", "load_peak_bytes", ".1f", 1e6),
    Column("weights\nMB", "weights_bytes", ".1f", 1e6),
    Column("prefill\npeak MB", "prefill_peak_bytes", ".1f", 1e6),
    Column("device\nMB", "device_used_bytes", ".1f", 1e6),
    Column("cache\nB/token", "kv_bytes_per_token_measured", ",.0f"),
    *(Column(f"context\non {c}", qualify("largest_context", c), ",.0f") for c in ("8GB", "24GB")),
    *(Column(f"batch\non {c}", qualify("largest_batch", c), ",.0f") for c in ("24GB", "80GB")),
)
_JUDGED = ("load_peak_bytes", "weights_bytes", "prefill_peak_bytes", "generate_peak_bytes")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Peaks of loading (kept by the loader), of the prompt and of the whole generation.

    Where memory runs out the record has failed and keeps what was read before, as it does where
    the process dies.
    """
    from harness.timing.phases import Phase, PhaseReader
    from harness.timing.prompts import explain_excess

    excess = explain_excess(engine, options.prompt_tokens, options.new_tokens)
    if excess is not None:
        raise InputError(excess)
    meter = engine.meter
    meter.release_unused()
    load_anonymous = meter.anonymous_bytes()
    lengths = sorted({max(1, options.prompt_tokens // part) for part in (4, 2, 1)})
    short = [Phase("prefill", 1, length) for length in lengths]
    pair = Phase("prefill", 2, lengths[0])  # what each further sequence takes
    prefill = Phase("prefill", options.batch_size, options.prompt_tokens)
    generate = Phase("generate", options.batch_size, options.prompt_tokens, options.new_tokens)
    reader = PhaseReader(engine, engine.count_work())

    def as_measured() -> Measured:
        """What is measured so far."""
        numbers: dict[str, int | float | None] = {
            **engine.memory,
            "prefill_peak_bytes": reader.peaks.get(prefill),
            "generate_peak_bytes": reader.peaks.get(generate),
            "reserved_peak_bytes": meter.reserved_peak_bytes(),
            "device_used_bytes": reader.device_used,
            "load_anonymous_bytes": load_anonymous,
            "generate_anonymous_bytes": reader.anonymous,
            "kv_bytes_per_token": reader.work.kv_bytes,
            "kv_bytes_per_token_measured": reader.cache_growth,
            **find_capacity(reader, prefill, generate, (short[0], pair)),
        }
        numbers["peak_bytes"] = _highest(numbers)
        return Measured(
            values=make_values(VALUES, numbers),
            protocol={
                **options.model_dump(mode="json"),
                "method": meter.method,
                "allocator": meter.allocator,
            },
            validity=_find_validity(numbers, reader.failure),
        )

    plan = list(dict.fromkeys((short[0], pair, *short, prefill, generate)))
    for done, phase in enumerate(plan):
        context.progress(done, len(plan), "phases")
        if phase in (prefill, generate):
            context.keep(as_measured(), str(phase))
        reader.read(phase)
        if reader.failure:
            break
    meter.reuse_freed()
    return as_measured()


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Peak over peak, phase by phase."""
    return make_values(
        VALUES,
        {f"{name}_ratio": divide(candidate, reference, f"{name}_bytes") for name in _PHASES},
    )


def _highest(numbers: Mapping[str, int | float | None]) -> int | float | None:
    """What must fit at some time or other; None where a phase is unknown."""
    phases = ("load_peak_bytes", "prefill_peak_bytes", "generate_peak_bytes")
    known = [peak for peak in map(numbers.get, phases) if peak is not None]
    return max(known) if len(known) == len(phases) else None


def find_capacity(
    reader: PhaseReader, prefill: Phase, generate: Phase, pair: tuple[Phase, Phase]
) -> dict[str, int | None]:
    """The largest context and batch per card; None where a peak is missing, or is mostly noise."""
    kv = reader.cache_growth or reader.work.kv_bytes or 0
    by_length = reader.grown_by_length()
    growth = fit_growth(by_length, kv, reader.work.attention_curve)
    if reader.engine.device == "cpu" and max(by_length.values(), default=0) < _NOISE_BYTES:
        growth = None
    one, two = (reader.grown.get(phase) for phase in pair)
    if growth is not None and one is not None and two is not None:
        growth = growth.with_second(pair[0].prompt_tokens, one, two)
    seen = [reader.grown[phase] for phase in (prefill, generate) if phase in reader.grown]
    found: dict[str, int | None] = {}
    for card, capacity in CARDS.items():
        context = batch = None
        if growth is not None and reader.held is not None:
            room = capacity - reader.held - (reader.context or 0)
            context = largest_context(room, growth, reader.engine.max_context)
            if len(seen) == 2:
                own = (max(seen) - growth.shared) / generate.batch
                least = max(kv * (generate.prompt_tokens + generate.new_tokens), own)
                batch = largest_batch(room, growth, generate.prompt_tokens, least)
        found[qualify("largest_context", card)] = context
        found[qualify("largest_batch", card)] = batch
    return found


def _find_validity(numbers: Mapping[str, int | float | None], failure: str | None) -> Validity:
    if failure:
        return Validity(status="failed", reasons=(failure,))
    reasons = [f"{n} is unavailable on this machine" for n in _JUDGED if numbers[n] is None]
    formula, found = numbers["kv_bytes_per_token"], numbers["kv_bytes_per_token_measured"]
    if formula is not None and found is not None and formula != found:
        reasons.append(
            f"the model caches {found:g} bytes per token, its config says {formula}: "
            "trust the measured figure"
        )
    return Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons))


METRIC = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"open_generator", "count_work", "memory", "meter"}),
    how=frozenset({"method"}),
    details=DETAILS,
    compare=compare,
    fresh_process=True,
)
