"""Run prompts of growing size, each a phase of its own, and read the memory that each took."""

from dataclasses import dataclass, field

from harness.engines.base import Engine, Work
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


@dataclass
class PhaseReader:
    """Bytes read in the phases so far; ``failure`` is why one could not be run.

    ``peaks`` and ``grown``, the peaks less what was held after each, are by phase; ``held`` is what
    is kept after the last: weights, and workspaces of libraries. ``cache_growth`` is by how many
    bytes per token and sequence the cache grew in the last phase with several new tokens,
    ``anonymous`` what the process held when that ended, ``context`` the part of ``device_used``
    that is not the allocator's.
    """

    engine: Engine
    work: Work
    peaks: dict[Phase, int | None] = field(default_factory=dict)
    grown: dict[Phase, int] = field(default_factory=dict)
    held: int | None = None
    anonymous: int | None = None
    device_used: int | None = None
    context: int | None = None
    cache_growth: int | float | None = None
    failure: str | None = None

    def read(self, phase: Phase) -> None:
        """Run ``phase`` and keep its readings, or the reason why there are none."""
        meter = self.engine.meter
        meter.release_unused()
        meter.start_phase()
        least = least_bytes(self.work, phase.batch, phase.prompt_tokens, phase.new_tokens)
        cached = within_memory(self.engine.device, least, lambda: self._run(phase))
        if isinstance(cached, str):
            self.failure = f"out of memory in {phase}: {cached}"
            return
        self.peaks[phase] = peak = meter.peak_bytes()
        self.device_used, self.context = meter.device_used_bytes(), meter.context_bytes()
        meter.release_unused()
        self.held = meter.current_bytes()
        if peak is not None and self.held is not None:
            self.grown[phase] = peak - self.held
        if phase.new_tokens > 1 and cached:
            growth = (cached[-1] - cached[0]) / ((len(cached) - 1) * phase.batch)
            self.cache_growth = int(growth) if growth.is_integer() else growth

    def grown_by_length(self) -> dict[int, int]:
        """`grown` by length of the prompt, of the phases that read a single sequence."""
        return {
            phase.prompt_tokens: grown
            for phase, grown in self.grown.items()
            if phase.batch == phase.new_tokens == 1
        }

    def _run(self, phase: Phase) -> list[int]:
        """Bytes of the cache after each new token; empty where the model has none to read."""
        prompt = make_prompt(self.engine, phase.batch, phase.prompt_tokens)
        generator = self.engine.open_generator(None, False)
        cached: list[int] = []

        def look(cache_bytes: int | None) -> None:
            if cache_bytes is not None:
                cached.append(cache_bytes)
            self.anonymous = self.engine.meter.anonymous_bytes()

        generator.run(prompt, phase.new_tokens, look)
        return cached
