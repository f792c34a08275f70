"""How much memory a batch will take, told from a smaller one of the same prompt. Worker only.

For a CPU, whose kernel ends a process that takes too much; an accelerator's allocator refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from harness.engines.shared.meter import MemoryMeter

T = TypeVar("T")


class GrowthWatch:
    """Watches one generation per shape and scales what it took to the next batch size."""

    def __init__(self, meter: MemoryMeter, device: str) -> None:
        self._meter = meter if device == "cpu" else None
        self._taken: dict[int, dict[int, int]] = {}  # prompt length -> batch -> bytes

    def settle(self) -> None:
        """Give back what is free, so that it counts as such."""
        if self._meter is not None:
            self._meter.settle()
            self._meter.steady()

    def watch(self, batch: int, prompt_tokens: int, run: Callable[[], T]) -> T:
        """``run``; the first time for this shape, keep what it held at most and gave back.

        What stays, such as a library's own buffers and pages of code, it takes no second time.
        """
        taken = self._taken.setdefault(prompt_tokens, {})
        if self._meter is None or batch in taken:
            return run()
        self._meter.settle()  # from here to `steady`, what is freed is given back at once
        self._meter.start_phase()
        result = run()
        peak = self._meter.peak_bytes()
        self._meter.settle()
        held = self._meter.current_bytes()
        self._meter.steady()
        if peak is not None and held is not None:
            taken[batch] = max(0, peak - held)
        return result

    def predict(self, batch: int, prompt_tokens: int) -> int | None:
        """Bytes, or None where no smaller batch of this length was watched.

        In proportion to the batch, or along the line through the last two: what does not grow with
        the batch, such as weights that are dequantised layer by layer, counts once then.
        """
        seen = sorted(
            (b, taken) for b, taken in self._taken.get(prompt_tokens, {}).items() if b < batch
        )
        if not seen:
            return None
        last, taken = seen[-1]
        if len(seen) == 1:
            return round(taken * batch / last)
        before, less = seen[-2]
        return taken + round(max(0, taken - less) / (last - before) * (batch - last))
