"""Run prompts of growing size, each a phase of its own, and read the memory that each took."""

from dataclasses import dataclass

from harness.engines.base import Engine, Work
from harness.engines.shared.attention_kernels import cudnn_attention
from harness.timing.prompts import least_bytes, make_prompt, within_memory


@dataclass(frozen=True)
class Phase:
    """A generation of ``new_tokens`` from ``prompt_tokens``, in ``batch`` sequences."""

    name: str
    batch: int
    prompt_tokens: int
    new_tokens: int = 1

    def __str__(self) -> str:
        return (
            f"{self.name} (batch {self.batch}, {self.prompt_tokens} prompt tokens, "
            f"{self.new_tokens} new)"
        )


@dataclass(frozen=True)
class Reading:
    """Bytes of one phase: the ``peak``, and what is ``held`` after it (weights, workspaces).

    ``context`` is the part of ``device_used`` that is not the allocator's, ``anonymous`` what the
    process held at the last new token, ``cache_growth`` by how many bytes per token and sequence
    the cache grew, where there are several new tokens and it can be read.
    """

    peak: int | None
    held: int | None
    device_used: int | None = None
    context: int | None = None
    anonymous: int | None = None
    cache_growth: int | float | None = None

    @property
    def grown(self) -> int | None:
        """What the phase took for a while."""
        return None if self.peak is None or self.held is None else self.peak - self.held


def read_phase(engine: Engine, work: Work, phase: Phase) -> Reading | str:
    """Run ``phase`` and read its memory; a sentence where it does not fit."""
    meter = engine.meter
    meter.release_unused()
    meter.start_phase()
    cached: list[int] = []
    anonymous: int | None = None

    def look(cache_bytes: int | None) -> None:
        nonlocal anonymous
        if cache_bytes is not None:
            cached.append(cache_bytes)
        anonymous = meter.anonymous_bytes()

    def run() -> None:
        prompt = make_prompt(engine, phase.batch, phase.prompt_tokens)
        engine.open_generator(None, False).run(prompt, phase.new_tokens, look)

    least = least_bytes(work, phase.batch, phase.prompt_tokens, phase.new_tokens)
    with cudnn_attention(True):  # as users get it; `cudnn_attention: false` is of speeds alone
        lacking = within_memory(engine.device, least, run)
    if lacking is not None:
        return f"out of memory in {phase}: {lacking}"
    peak, used, context = meter.peak_bytes(), meter.device_used_bytes(), meter.context_bytes()
    meter.release_unused()
    growth: int | float | None = None
    if len(cached) > 1:
        growth = (cached[-1] - cached[0]) / ((len(cached) - 1) * phase.batch)
        growth = int(growth) if growth.is_integer() else growth
    return Reading(peak, meter.current_bytes(), used, context, anonymous, growth)
