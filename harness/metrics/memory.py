"""memory: peak bytes by phase (load, prefill, generate), in a process of its own.

Also recorded: what the allocator and the device hold, the bytes of the key-value cache per token,
and from the growth over short prompts the largest context and batch on cards of several sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from harness.descriptions import Chart, Column, Margin, Metric, OptionsBase, ValueSpec
from harness.errors import InputError
from harness.machine.capacity import CARDS, fit_growth, largest_batch, largest_context
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import divide, make_values, qualify

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine, Work
    from harness.timing.phases import Phase, Reading


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
_PHASE_COLUMNS = (
    Column("loading", "load_peak_bytes", ",.1f", 1e6),
    Column("weights", "weights_bytes", ",.1f", 1e6),
    Column("reading the prompt", "prefill_peak_bytes", ",.1f", 1e6),
    Column("generating", "generate_peak_bytes", ",.1f", 1e6),
)
_CARDS_MB = {card: size / 1e6 for card, size in CARDS.items()}
DETAILS = (
    Column("load\npeak MB", "load_peak_bytes", ".1f", 1e6),
    Column("weights\nMB", "weights_bytes", ".1f", 1e6),
    Column("prefill\npeak MB", "prefill_peak_bytes", ".1f", 1e6),
    Column("device\nMB", "device_used_bytes", ".1f", 1e6),
    Column("cache\nB/token", "kv_bytes_per_token_measured", ",.0f"),
    *(Column(f"context\non {c}", qualify("largest_context", c), ",.0f") for c in ("8GB", "24GB")),
    *(Column(f"batch\non {c}", qualify("largest_batch", c), ",.0f") for c in ("24GB", "80GB")),
)
_PEAKS = ("load_peak_bytes", "prefill_peak_bytes", "generate_peak_bytes")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Peaks of loading (kept by the loader), of the prompt and of the whole generation.

    Where memory runs out the record has failed and keeps what was read before, as it does where
    the process dies.
    """
    from harness.timing.phases import Phase, Reading, read_phase
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
    work = engine.count_work()
    readings: dict[Phase, Reading] = {}
    failure: str | None = None

    def as_measured() -> Measured:
        """What is measured so far."""
        nothing = Reading(None, None)
        last = next(reversed(readings.values()), nothing)
        generated = readings.get(generate, nothing)
        numbers: dict[str, int | float | None] = {
            **engine.memory,
            "prefill_peak_bytes": readings.get(prefill, nothing).peak,
            "generate_peak_bytes": generated.peak,
            "reserved_peak_bytes": meter.reserved_peak_bytes(),
            "device_used_bytes": last.device_used,
            "load_anonymous_bytes": load_anonymous,
            "generate_anonymous_bytes": generated.anonymous,
            "kv_bytes_per_token": work.kv_bytes,
            "kv_bytes_per_token_measured": generated.cache_growth,
            **find_capacity(engine, work, readings, (prefill, generate), (short[0], pair)),
        }
        peaks = [peak for name in _PEAKS if (peak := numbers[name]) is not None]
        # What must fit at some time or other; None where a phase is unknown.
        numbers["peak_bytes"] = max(peaks) if len(peaks) == len(_PEAKS) else None
        return Measured(
            values=make_values(VALUES, numbers),
            protocol={
                **options.model_dump(mode="json"),
                "method": meter.method,
                "allocator": meter.allocator,
            },
            validity=_find_validity(numbers, failure),
        )

    plan = list(dict.fromkeys((short[0], pair, *short, prefill, generate)))
    for done, phase in enumerate(plan):
        context.progress(done, len(plan), "phases")
        if phase in (prefill, generate):
            context.keep(as_measured(), str(phase))
        found = read_phase(engine, work, phase)
        if isinstance(found, str):
            failure = found
            break
        readings[phase] = found
    meter.reuse_freed()
    return as_measured()


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Peak over peak, phase by phase."""
    return make_values(
        VALUES,
        {f"{name}_ratio": divide(candidate, reference, f"{name}_bytes") for name in _PHASES},
    )


def find_capacity(
    engine: Engine,
    work: Work,
    readings: Mapping[Phase, Reading],
    measured: tuple[Phase, Phase],
    pair: tuple[Phase, Phase],
) -> dict[str, int | None]:
    """The largest context and batch per card; None where a peak is missing, or is mostly noise.

    ``measured`` are the prefill and the generation that the options ask for, ``pair`` one and two
    sequences of one length.
    """
    grown = {phase: each.grown for phase, each in readings.items() if each.grown is not None}
    single = {p.prompt_tokens: n for p, n in grown.items() if p.batch == p.new_tokens == 1}
    seen = [grown[phase] for phase in measured if phase in grown]
    generate = measured[1]
    kv = (readings[generate].cache_growth if generate in readings else None) or work.kv_bytes or 0
    growth = fit_growth(single, kv, work.attention_curve)
    if engine.device == "cpu" and max(single.values(), default=0) < _NOISE_BYTES:
        growth = None
    if growth is not None and all(phase in grown for phase in pair):
        growth = growth.with_second(pair[0].prompt_tokens, *(grown[phase] for phase in pair))
    found: dict[str, int | None] = {}
    for card, capacity in CARDS.items():
        context = batch = None
        if growth is not None:
            last = list(readings.values())[-1]
            room = capacity - (last.held or 0) - (last.context or 0)
            context = largest_context(room, growth, engine.max_context)
            if len(seen) == 2:
                own = (max(seen) - growth.shared) / generate.batch
                least = max(kv * (generate.prompt_tokens + generate.new_tokens), own)
                batch = largest_batch(room, growth, generate.prompt_tokens, least)
        found |= {f"largest_context[{card}]": context, f"largest_batch[{card}]": batch}
    return found


def _find_validity(numbers: Mapping[str, int | float | None], failure: str | None) -> Validity:
    if failure:
        return Validity(status="failed", reasons=(failure,))
    judged = (*_PEAKS, "weights_bytes")
    reasons = [f"{n} is unavailable on this machine" for n in judged if numbers[n] is None]
    formula, found = numbers["kv_bytes_per_token"], numbers["kv_bytes_per_token_measured"]
    if formula is not None and found is not None and formula != found:
        reasons.append(
            f"the model caches {found:g} bytes per token, its config says {formula}: "
            "trust the measured figure"
        )
    return Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons))


METRIC = Metric(
    __doc__ or "",
    Options,
    VALUES,
    measure,
    HEADLINE,
    DETAILS,
    weighs={"memory": Column("peak memory, MB", "peak_bytes", ",.1f", 1e6)},
    charts=(Chart("memory by phase, peak MB", _PHASE_COLUMNS, marks=_CARDS_MB),),
    needs=frozenset({"open_generator", "count_work", "memory", "meter"}),
    how=frozenset({"method"}),
    least_context=lambda options: options.prompt_tokens + options.new_tokens,
    compare=compare,
    fresh_process=True,
)
