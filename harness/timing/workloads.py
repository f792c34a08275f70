"""Time one batch size and prompt length of a loaded cell, and set it beside the device's peaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from harness.engines.free_memory import format_gb
from harness.engines.meter import free_bytes
from harness.engines.transformers.forward import free_memory, is_out_of_memory, keeps_logits
from harness.engines.transformers.generation import Generation, Generator, make_prompt
from harness.metrics.speed_values import gaps_of, summarise_device, summarise_rounds
from harness.records.values import qualify
from harness.timing.energy import read_energy_j
from harness.timing.growth import GrowthWatch
from harness.timing.roofline import (
    last_level_cache_bytes,
    measure_bandwidth,
    measure_matmul_peak,
)
from harness.timing.rounds import take_rounds, warm_up
from harness.timing.utilisation import count_work, find_compute_dtype, share

if TYPE_CHECKING:
    from harness.engines.transformers.load import LoadedCell
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

    def __init__(self, loaded: LoadedCell, options: Options) -> None:
        self._loaded = loaded
        self._options = options
        self._work = count_work(loaded)
        self._growth = GrowthWatch(loaded.meter, loaded.device)

    def time(self, batch: int, prompt_tokens: int) -> Timed | str:
        """Warm-up and rounds; a sentence with what was free where memory runs out.

        What the shape needs is compared with that first: on a CPU the kernel would kill the process
        instead of refusing.
        """
        self._growth.settle()
        free = free_bytes(self._loaded.device)
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
        free = free_bytes(self._loaded.device)
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory()  # out here, where the error's frames no longer hold the batch
        return f"{format_gb(free)} were free"

    def _compare_with_peaks(self, numbers: Numbers, samples: Mapping[str, Any]) -> Numbers:
        device = self._loaded.device
        bandwidth = measure_bandwidth(device)
        peak = measure_matmul_peak(device, find_compute_dtype(self._loaded))
        found: Numbers = {"bandwidth_bytes_per_s": bandwidth, "matmul_flop_per_s": peak}
        for qualifier, timed in samples.items():
            step = numbers[qualify("step_bytes", qualifier)]
            tpot = numbers[qualify("tpot_s", qualifier)]
            ttft = numbers[qualify("ttft_s", qualifier)]
            flop = self._work.prefill_flop(timed["batch_size"], timed["prompt_tokens"])
            found[qualify("mbu", qualifier)] = share(step, tpot, bandwidth)
            found[qualify("prefill_flop_utilisation", qualifier)] = share(flop, ttft, peak)
        return found

    def describe_peaks(self) -> dict[str, Any]:
        """What the peaks are of, for the record."""
        attested = self._loaded.attested
        dtype = find_compute_dtype(self._loaded)
        return {
            "matmul_dtype": "tf32" if dtype == "float32" and attested.get("tf32") else dtype,
            "products": "int8" if attested.get("quantisation") == "int8" else dtype,
            "last_level_cache_bytes": last_level_cache_bytes(self._loaded.device),
        }

    def _time(self, batch: int, prompt_tokens: int) -> Timed:
        options, device, model = self._options, self._loaded.device, self._loaded.model
        new_tokens = options.new_tokens
        length = prompt_tokens + new_tokens if options.cache == "static" else None
        prompt = make_prompt(model, batch, prompt_tokens, device)
        generator = Generator(model, length, options.compile)

        def run() -> Generation:
            return generator.run(prompt, new_tokens)

        try:
            compile_s = generator.compile(prompt, new_tokens) if options.compile else None
            settled = warm_up(
                lambda: self._growth.watch(batch, prompt_tokens, run).ready[-1], options
            )
            before = read_energy_j(device)
            rounds = take_rounds(run, options)
            after = read_energy_j(device)
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
        others: Numbers = {"step_bytes": self._work.step_bytes(batch, prompt_tokens, new_tokens)}
        if options.compile:
            others["compile_s"] = compile_s
        shape = {"batch_size": batch, "prompt_tokens": prompt_tokens}
        return Timed(from_rounds, others, shape | _keep(rounds), len(rounds), settled)

    def _least_bytes(self, batch: int, prompt_tokens: int) -> int:
        """Token ids, keys and values of the whole length, and the logits that the prompt gives.

        No activations: how large they are depends on the model's code.
        """
        model = self._loaded.model
        vocabulary: int = model.get_input_embeddings().num_embeddings
        rows = 1 if keeps_logits(model) else prompt_tokens
        logits = rows * vocabulary * int(model.dtype.itemsize)
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


def _keep(rounds: Sequence[Generation]) -> dict[str, list[Any]]:
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
