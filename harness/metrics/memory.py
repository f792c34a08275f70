"""memory: peak bytes by phase (load, prefill, generate), in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.metrics._generate import check_context, generate, make_prompt
from harness.options import Column, OptionsBase, ValueSpec
from harness.record import Measured, Record, Validity, Value
from harness.values import divide, make_values

if TYPE_CHECKING:
    from harness.metrics._forward import MeasureContext
    from harness.models.load import LoadedCell

NEEDS_FRESH_PROCESS = True
REFERENCE_REUSABLE = True


class Options(OptionsBase):
    """Lengths in tokens."""

    prompt_tokens: int = Field(512, ge=1)
    new_tokens: int = Field(64, ge=2)
    batch_size: int = Field(1, ge=1)


VALUES = {
    "load_peak_bytes": ValueSpec("bytes", "lower", "highest while loading"),
    "weights_bytes": ValueSpec("bytes", "lower", "held after loading"),
    "prefill_peak_bytes": ValueSpec("bytes", "lower", "highest while reading the prompt"),
    "generate_peak_bytes": ValueSpec("bytes", "lower", "highest while generating"),
    "generate_peak_ratio": ValueSpec(
        "", "lower", "over the reference's", paired=True, of="generate_peak_bytes", neutral=1.0
    ),
}
HEADLINE = (
    Column("peak MB", "generate_peak_bytes", ".1f", 1e6),
    Column("×ref", "generate_peak_ratio", ".2f"),
)


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """Peaks of loading (kept by the loader), of the prompt and of the whole generation."""
    check_context(loaded, options.prompt_tokens + options.new_tokens)
    prompt = make_prompt(loaded.model, options.batch_size, options.prompt_tokens, loaded.device)
    meter = loaded.meter
    peaks = {}
    for done, (phase, new_tokens) in enumerate((("prefill", 1), ("generate", options.new_tokens))):
        context.progress(done, 2, "phases")
        meter.settle()
        meter.start_phase()
        generate(loaded.model, prompt, new_tokens)
        peaks[f"{phase}_peak_bytes"] = meter.peak_bytes()
    meter.steady()
    numbers = {**loaded.memory, **peaks}
    missing = [name for name, value in numbers.items() if value is None]
    reasons = tuple(f"{name} is unavailable on this machine" for name in missing)
    return Measured(
        values=make_values(VALUES, numbers),
        protocol={**options.model_dump(mode="json"), "method": meter.method},
        validity=Validity(status="flagged" if reasons else "ok", reasons=reasons),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Peak over peak."""
    ratio = divide(candidate, reference, "generate_peak_bytes")
    return make_values(VALUES, {"generate_peak_ratio": ratio})
