"""Time workloads, each a batch size and prompt length, on a loaded cell; compare with the device.

The values of a workload are named after those of `harness.metrics.throughput`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.engines.base import Engine, TimedTokens, Work
from harness.engines.shared.board import read_energy_j
from harness.records.record import Value
from harness.records.values import qualify
from harness.timing.memory_limits import least_bytes, within_memory
from harness.timing.prompts import make_prompt
from harness.timing.roofline import last_level_cache_bytes, measure_bandwidth, measure_matmul_peak
from harness.timing.round_summaries import gaps_of, summarise_device, summarise_rounds
from harness.timing.rounds import RoundLimits, take_rounds, warm_up
from harness.timing.utilisation import prefill_flop, share, step_bytes

Numbers = dict[str, int | float | None]


@dataclass(frozen=True)
class TimedWorkload:
    """Values of all rounds and others that are measured ``once``; ``samples`` holds every round.

    ``settled``: the warm-up ended because the speed no longer changed.
    """

    of_rounds: Numbers
    once: Numbers
    samples: dict[str, Any]
    settled: bool


@dataclass(frozen=True)
class WorkloadTimer:
    """Times one workload after the other on a loaded cell.

    ``static_cache``: keys and values are in one buffer of the final length; ``compiled``: decode
    steps go through torch.compile.
    """

    engine: Engine
    work: Work
    limits: RoundLimits
    new_tokens: int
    static_cache: bool
    compiled: bool

    def time(self, batch: int, prompt_tokens: int) -> TimedWorkload | str:
        """Warm-up and rounds; a sentence where memory runs out or cannot suffice."""
        device, meter = self.engine.device, self.engine.meter
        if device == "cpu":  # what the C library keeps for later would not count as free
            meter.release_unused()
            meter.reuse_freed()
        least = least_bytes(self.work, batch, prompt_tokens, self.new_tokens)
        return within_memory(device, least, lambda: self._time(batch, prompt_tokens))

    def _time(self, batch: int, prompt_tokens: int) -> TimedWorkload:
        engine, new_tokens = self.engine, self.new_tokens
        prompt = make_prompt(engine, batch, prompt_tokens)
        length = prompt_tokens + new_tokens if self.static_cache else None
        generator = engine.open_generator(length, self.compiled)

        def run() -> TimedTokens:
            return generator.run(prompt, new_tokens)

        once: Numbers = {"step_bytes": step_bytes(self.work, batch, prompt_tokens, new_tokens)}
        try:
            if self.compiled:
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
        return TimedWorkload(of_rounds, once, samples, settled)


def compare_with_peaks(
    engine: Engine, work: Work, values: Mapping[str, Value], samples: Mapping[str, Any]
) -> Numbers | str:
    """MBU and FLOP utilisation of every workload in ``samples``, and the peaks that they refer to.

    A sentence where memory runs out.
    """

    def compare() -> Numbers:
        bandwidth = measure_bandwidth(engine.device)
        peak = measure_matmul_peak(engine.device, engine.compute_dtype)
        found: Numbers = {"bandwidth_bytes_per_s": bandwidth, "matmul_flop_per_s": peak}
        for qualifier, timed in samples.items():
            step, tpot, ttft = (
                values[qualify(name, qualifier)].value
                for name in ("step_bytes", "tpot_s", "ttft_s")
            )
            flop = prefill_flop(work, timed["batch_size"], timed["prompt_tokens"])
            found[qualify("mbu", qualifier)] = share(step, tpot, bandwidth)
            found[qualify("prefill_flop_utilisation", qualifier)] = share(flop, ttft, peak)
        return found

    return within_memory(engine.device, 0, compare)


def describe_peaks(engine: Engine) -> dict[str, Any]:
    """What kind of products and which cache the peaks are of, for the record."""
    attested, dtype = engine.attested, engine.compute_dtype
    return {
        "matmul_dtype": "tf32" if dtype == "float32" and attested.get("tf32") else dtype,
        "products": attested.get("product_dtype", dtype),
        "last_level_cache_bytes": last_level_cache_bytes(engine.device),
    }
