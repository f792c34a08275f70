"""Time workloads, each a batch size and prompt length, on a loaded cell.

The values of a workload are named after those of `harness.metrics.throughput`.
"""

from dataclasses import dataclass
from typing import Any

import torch

from harness.engines.base import Engine, Generator, TimedTokens, Work
from harness.engines.shared.attention_kernels import KernelWatch, cudnn_attention
from harness.engines.shared.board import read_energy_j
from harness.timing.prompts import least_bytes, make_prompt, within_memory
from harness.timing.roofline import Numbers, step_bytes
from harness.timing.rounds import (
    RoundLimits,
    gaps_of,
    summarise_device,
    summarise_rounds,
    take_rounds,
    warm_up,
)


@dataclass(frozen=True)
class TimedWorkload:
    """Values of all rounds and others that are measured ``once``; ``samples`` holds every round.

    ``settled``: the warm-up ended because the speed no longer changed. ``attention``: torch's
    kernels for the prompt and for a step, which are not seen in compiled ones.
    ``cuda_graphs_skipped``: how often torch.compile went without CUDA graphs, None where nothing
    was compiled.
    """

    of_rounds: Numbers
    once: Numbers
    samples: dict[str, Any]
    settled: bool
    attention: dict[str, str | None]
    cuda_graphs_skipped: int | None


@dataclass(frozen=True)
class WorkloadTimer:
    """Times one workload after the other on a loaded cell.

    ``cudnn_attention``: torch may choose cuDNN's attention.
    """

    engine: Engine
    work: Work
    limits: RoundLimits
    new_tokens: int
    cudnn_attention: bool = True

    def time(
        self, batch: int, prompt_tokens: int, static_cache: bool, compiled: bool
    ) -> TimedWorkload | str:
        """Warm-up and rounds; a sentence where memory runs out or cannot suffice.

        ``static_cache``: keys and values are in one buffer of the final length; ``compiled``:
        decode steps go through torch.compile, or `InputError` says why they cannot.
        """
        device, meter = self.engine.device, self.engine.meter
        if device == "cpu":  # what the C library keeps for later would not count as free
            meter.release_unused()
            meter.reuse_freed()
        least = least_bytes(self.work, batch, prompt_tokens, self.new_tokens)
        length = prompt_tokens + self.new_tokens if static_cache else None
        with cudnn_attention(self.cudnn_attention):
            return within_memory(
                device, least, lambda: self._time(batch, prompt_tokens, length, compiled)
            )

    def _time(
        self, batch: int, prompt_tokens: int, static_length: int | None, compiled: bool
    ) -> TimedWorkload:
        engine, new_tokens = self.engine, self.new_tokens
        prompt = make_prompt(engine, batch, prompt_tokens)
        generator = engine.open_generator(static_length, compiled)

        def run() -> TimedTokens:
            return generator.run(prompt, new_tokens)

        once: Numbers = {"step_bytes": step_bytes(self.work, batch, prompt_tokens, new_tokens)}
        skipped = _count_skipped_graphs() if compiled else 0
        try:
            attention = _watch_attention(generator, prompt, compiled)
            if compiled:
                once["compile_s"] = generator.compile(prompt, new_tokens)
            settled = warm_up(lambda: run().ready[-1], self.limits)
            before = read_energy_j(engine.device)
            rounds = take_rounds(run, self.limits)
            after = read_energy_j(engine.device)
        finally:
            generator.release()
        tokens = batch * new_tokens * len(rounds)
        energy = None if before is None or after is None else (after - before) / tokens
        ready = [one.ready for one in rounds]
        on_device = [one.device_s for one in rounds if one.device_s is not None]
        of_rounds: Numbers = {
            **summarise_rounds(ready, batch, prompt_tokens),
            **summarise_device(on_device, new_tokens),
            "energy_j_per_token": energy,
        }
        samples: dict[str, Any] = {
            "batch_size": batch,
            "prompt_tokens": prompt_tokens,
            "ttft_s": [times[0] for times in ready],
            "decode_s": [times[-1] - times[0] for times in ready],
            "itl_s": [gaps_of(times) for times in ready],
        }
        if on_device:
            samples["ttft_device_s"] = [first for first, _ in on_device]
            samples["decode_device_s"] = [last - first for first, last in on_device]
        skips = _count_skipped_graphs() - skipped if compiled else None
        return TimedWorkload(of_rounds, once, samples, settled, attention, skips)


def _watch_attention(
    generator: Generator, prompt: torch.Tensor, compiled: bool
) -> dict[str, str | None]:
    """torch's kernels for ``prompt`` and, unless it is ``compiled``, for a step behind it."""
    kernels: list[str | None] = []
    with KernelWatch() as watch:
        generator.run(prompt, 1 if compiled else 2, lambda _: kernels.append(watch.take()))
    return dict(zip(("prompt", "step"), kernels, strict=False))


def _count_skipped_graphs() -> int:
    """In this process so far; `torch.compiler.reset` leaves the count."""
    from torch._dynamo.utils import counters  # takes seconds, and only compiled steps need it

    return counters["inductor"]["cudagraph_skips"]
