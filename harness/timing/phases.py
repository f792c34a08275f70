"""Run prompts of growing size, each a phase of its own, and read what memory it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.engines.shared.batches import free_memory, is_out_of_memory
from harness.engines.shared.free_memory import format_gb, free_bytes
from harness.metrics.capacity import fit_growth
from harness.timing.prompts import make_prompt

if TYPE_CHECKING:
    from harness.engines.base import Engine


@dataclass(frozen=True)
class Phase:
    """A generation of ``new_tokens`` from ``prompt_tokens``, in ``batch`` sequences."""

    name: str
    batch: int
    prompt_tokens: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """The length of each sequence at the end."""
        return self.prompt_tokens + self.new_tokens

    def __str__(self) -> str:
        return (
            f"{self.name} (batch {self.batch}, {self.prompt_tokens} prompt tokens, "
            f"{self.new_tokens} new)"
        )


class PhaseReader:
    """The peaks of the phases read so far; ``failure`` says why one could not be.

    ``held`` is what stays after the last phase: weights, and workspaces that libraries keep;
    ``grown`` the peaks less what stayed after each. ``cache_growth`` is by how many bytes per token
    and sequence the cache grew in the last phase with more than one new token, ``anonymous`` what
    the process held when that ended, ``context`` what the device holds beside the allocator.
    """

    def __init__(self, engine: Engine, least_slope: float) -> None:
        self.peaks: dict[Phase, int | None] = {}
        self.grown: dict[Phase, int] = {}
        self.least_slope = least_slope
        self.held: int | None = None
        self.anonymous: int | None = None
        self.device_used: int | None = None
        self.context: int | None = None
        self.cache_growth: int | float | None = None
        self.failure: str | None = None
        self._engine = engine

    def read(self, phase: Phase) -> None:
        """Run ``phase`` and keep its readings, or the reason why there are none."""
        meter, device = self._engine.meter, self._engine.device
        meter.settle()
        needed, free = self._predict(phase), free_bytes(device)
        told = (
            f"needs at least {format_gb(needed)} beside what is held, {format_gb(free)} were free"
        )
        if device == "cpu" and free is not None and needed > free:
            # The kernel would kill the process, and no number would be left.
            self.failure = f"out of memory ahead of {phase}, which was not run: it {told}"
            return
        failed = False
        meter.start_phase()
        try:
            cached = self._run(phase)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        if failed:  # out here, where the error's frames no longer hold the batch
            free_memory()
            self.failure = f"out of memory in {phase}: it {told}"
            return
        self.peaks[phase] = peak = meter.peak_bytes()
        self.device_used, self.context = meter.device_used_bytes(), meter.context_bytes()
        meter.settle()
        self.held = held = meter.current_bytes()
        if peak is not None and held is not None:
            self.grown[phase] = peak - held
        if phase.new_tokens > 1 and cached:
            steps = (len(cached) - 1) * phase.batch
            whole, rest = divmod(cached[-1] - cached[0], steps)
            self.cache_growth = whole + rest / steps if rest else whole

    def grown_by_length(self) -> dict[int, int]:
        """`grown` by length of the prompt, of the phases that read one sequence."""
        return {
            phase.prompt_tokens: grown
            for phase, grown in self.grown.items()
            if phase.batch == phase.new_tokens == 1
        }

    def _predict(self, phase: Phase) -> float:
        """The least that ``phase`` takes: by the cache, and by the growth seen so far."""
        growth = fit_growth(self.grown_by_length(), self.least_slope)
        slope = growth.slope if growth else self.least_slope
        return slope * phase.batch * phase.prompt_tokens + (
            self.least_slope * phase.batch * phase.new_tokens
        )

    def _run(self, phase: Phase) -> list[int]:
        """Bytes of the cache after each new token; empty where the model has none to read."""
        engine = self._engine
        prompt = make_prompt(engine, phase.batch, phase.prompt_tokens)
        generator = engine.open_generator(None, False)
        cached: list[int] = []

        def look(cache_bytes: int | None) -> None:
            if cache_bytes is not None:
                cached.append(cache_bytes)
            self.anonymous = engine.meter.anonymous_bytes()

        generator.run(prompt, phase.new_tokens, look)
        return cached
