"""Time one batch size and prompt length of a loaded cell, and set it beside the device's peaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from harness.engines.base import Engine, TimedTokens
from harness.engines.shared.batches import free_memory, is_out_of_memory
from harness.engines.shared.board import read_energy_j
from harness.engines.shared.free_memory import format_gb, free_bytes
from harness.metrics.speed_values import gaps_of, summarise_device, summarise_rounds
from harness.records.values import qualify
from harness.timing.growth import GrowthWatch
from harness.timing.prompts import make_prompt
from harness.timing.roofline import (
    last_level_cache_bytes,
    measure_bandwidth,
    measure_matmul_peak,
)
from harness.timing.rounds import take_rounds, warm_up
from harness.timing.utilisation import prefill_flop, share, step_bytes

if TYPE_CHECKING:
    from harness.metrics.throughput import Options

T = TypeVar("T")
Numbers = dict[str, int | float | None]


@dataclass(frozen=True)
class Timed:
    """One shape: values from all rounds and others, every round, whether the warm-up settled."""

    from_rounds: Numbers
    others: Numbers
    samples: dict[str, Any]
    rounds: int
    settled: bool


class ShapeTimer:
    """Times one shape after the other on a loaded cell."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self._options = options
        self._work = engine.count_work()
        self._growth = GrowthWatch(engine.meter, engine.device)

    def time(self, batch: int, prompt_tokens: int) -> Timed | str:
        """Warm-up and rounds; a sentence with what was free where memory runs out.

        What the shape needs is compared with that first: on a CPU the kernel would kill the process
        instead of refusing.
        """
        self._growth.settle()
        free = free_bytes(self._engine.device)
        if free is not None:
            least = self._least_bytes(batch, prompt_tokens)
            if least > free:
                return f"it needs at least {format_gb(least)}, {format_gb(free)} were free; not run"
            expected = self._expected_bytes(batch, prompt_tokens)
            if expected is not None and expected > free:
                return (
                    f"by what a smaller batch took it needs about {format_gb(expected)}, "
                    f"{format_gb(free)} were free; not run"
                )
        return self._within_memory(lambda: self._time(batch, prompt_tokens))

    def compare_with_peaks(self, numbers: Numbers, samples: Mapping[str, Any]) -> Numbers | str:
        """MBU and FLOP utilisation of every shape, and the peaks they are shares of.

        A sentence with what was free where memory runs out.
        """
        return self._within_memory(lambda: self._compare_with_peaks(numbers, samples))

    def _within_memory(self, work: Callable[[], T]) -> T | str:
        free = free_bytes(self._engine.device)
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory()  # out here, where the error's frames no longer hold the batch
        return f"{format_gb(free)} were free"

    def _compare_with_peaks(self, numbers: Numbers, samples: Mapping[str, Any]) -> Numbers:
        device = self._engine.device
        bandwidth = measure_bandwidth(device)
        peak = measure_matmul_peak(device, self._engine.compute_dtype)
        found: Numbers = {"bandwidth_bytes_per_s": bandwidth, "matmul_flop_per_s": peak}
        for qualifier, timed in samples.items():
            step = numbers[qualify("step_bytes", qualifier)]
            tpot = numbers[qualify("tpot_s", qualifier)]
            ttft = numbers[qualify("ttft_s", qualifier)]
            flop = prefill_flop(self._work, timed["batch_size"], timed["prompt_tokens"])
            found[qualify("mbu", qualifier)] = share(step, tpot, bandwidth)
            found[qualify("prefill_flop_utilisation", qualifier)] = share(flop, ttft, peak)
        return found

    def describe_peaks(self) -> dict[str, Any]:
        """What the peaks are of, for the record."""
        attested = self._engine.attested
        dtype = self._engine.compute_dtype
        return {
            "matmul_dtype": "tf32" if dtype == "float32" and attested.get("tf32") else dtype,
            "products": "int8" if attested.get("quantisation") == "int8" else dtype,
            "last_level_cache_bytes": last_level_cache_bytes(self._engine.device),
        }

    def _time(self, batch: int, prompt_tokens: int) -> Timed:
        options, engine = self._options, self._engine
        new_tokens = options.new_tokens
        length = prompt_tokens + new_tokens if options.cache == "static" else None
        prompt = make_prompt(engine, batch, prompt_tokens)
        generator = engine.open_generator(length, options.compile)

        def run() -> TimedTokens:
            return generator.run(prompt, new_tokens)

        try:
            compile_s = generator.compile(prompt, new_tokens) if options.compile else None
            settled = warm_up(
                lambda: self._growth.watch(batch, prompt_tokens, run).ready[-1], options
            )
            before = read_energy_j(engine.device)
            rounds = take_rounds(run, options)
            after = read_energy_j(engine.device)
        finally:
            generator.release()
        energy = None
        if before is not None and after is not None:
            energy = (after - before) / (batch * new_tokens * len(rounds))
        from_rounds: Numbers = {
            **summarise_rounds([one.ready for one in rounds], batch, prompt_tokens),
            **summarise_device([one.device_s for one in rounds], new_tokens),
            "energy_j_per_token": energy,
        }
        others: Numbers = {"step_bytes": step_bytes(self._work, batch, prompt_tokens, new_tokens)}
        if options.compile:
            others["compile_s"] = compile_s
        shape = {"batch_size": batch, "prompt_tokens": prompt_tokens}
        return Timed(from_rounds, others, shape | _keep(rounds), len(rounds), settled)

    def _least_bytes(self, batch: int, prompt_tokens: int) -> int:
        """Token ids, keys and values of the whole length, and the logits that the prompt gives.

        No activations: how large they are depends on the model's code.
        """
        rows = prompt_tokens if self._work.head_everywhere else 1
        logits = rows * self._work.logit_bytes
        return batch * (8 * prompt_tokens + logits) + self._cache_bytes(batch, prompt_tokens)

    def _expected_bytes(self, batch: int, prompt_tokens: int) -> int | None:
        """All of it, from a smaller batch of this length; None where none has run on a CPU."""
        grown = self._growth.predict(batch, prompt_tokens)
        if grown is None or self._options.cache == "dynamic":
            return grown
        return grown + self._cache_bytes(batch, prompt_tokens)  # a static one outlives a generation

    def _cache_bytes(self, batch: int, prompt_tokens: int) -> int:
        length = prompt_tokens + self._options.new_tokens
        return batch * length * (self._work.kv_bytes or 0)


def _keep(rounds: Sequence[TimedTokens]) -> dict[str, list[Any]]:
    """Every round's seconds; by the device's clock where it has one."""
    kept: dict[str, list[Any]] = {
        "ttft_s": [one.ready[0] for one in rounds],
        "decode_s": [one.ready[-1] - one.ready[0] for one in rounds],
        "itl_s": [gaps_of(one.ready) for one in rounds],
    }
    on_device = [one.device_s for one in rounds if one.device_s is not None]
    if on_device:
        kept["ttft_device_s"] = [first for first, _ in on_device]
        kept["decode_device_s"] = [last - first for first, last in on_device]
    return kept
