"""memory: peaks by phase, the cache per token, what fits a card, and memory that runs out."""

from __future__ import annotations

import dataclasses
import re
import resource
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.catalog import load_measurement, load_precision
from harness.engines.base import Work
from harness.engines.shared import meter
from harness.engines.shared.available_memory import free_bytes
from harness.errors import InputError
from harness.machine.capacity import CARDS
from harness.metrics.memory import Options, compare, find_capacity, measure
from harness.records.record import Measured, Record, Value
from harness.run.executor import LocalExecutor
from harness.run.machine import Machine
from harness.run.process import call_in_worker
from harness.suite.cells import Cell
from harness.suite.models import MeasurementSpec, ModelSpec, PrecisionSpec
from harness.timing.phases import Phase, Reading, read_phase
from harness.worker.probe import probe_device
from tests.support.cells_in_process import load, make_context, write_llama
from tests.support.records import make_record

MIB = 1 << 20
linux_only = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks on a CPU need Linux's /proc"
)


JUDGED = ("load_peak_bytes", "weights_bytes", "prefill_peak_bytes", "generate_peak_bytes")
# Large enough, 70 MB in float32, that what the allocator keeps here and there is noise.
LARGER = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("memory") / "model")


@pytest.fixture(scope="module")
def cell(checkpoint: Path) -> Any:
    return load(checkpoint)


@linux_only
def test_peaks_are_integers_in_their_order(checkpoint: Path) -> None:
    options = Options(prompt_tokens=16, new_tokens=4)
    measured = measure(load(checkpoint), options, make_context(Path("/")))
    values = {name: value.value for name, value in measured.values.items()}
    assert tuple(values)[:4] == JUDGED
    assert all(isinstance(values[name], int) and values[name] >= 0 for name in JUDGED)
    assert measured.validity.status == "ok"
    phases = ("load_peak_bytes", "prefill_peak_bytes", "generate_peak_bytes")
    assert values["peak_bytes"] == max(values[name] for name in phases)
    allocator = measured.protocol.pop("allocator")
    assert allocator["mmap_threshold_bytes"] == 64 << 10
    assert allocator["name"].startswith("glibc")
    assert measured.protocol == {
        "prompt_tokens": 16,
        "new_tokens": 4,
        "batch_size": 1,
        "method": "VmHWM reset by clear_refs",
    }


@linux_only
def test_anonymous_memory_grows_by_the_cache_and_a_cpu_has_nothing_of_a_gpu(cell: Any) -> None:
    def measure_batch(batch_size: int) -> Mapping[str, Value]:
        options = Options(prompt_tokens=64, new_tokens=4, batch_size=batch_size)
        return measure(cell, options, make_context(Path("/"))).values

    few, many = measure_batch(8), measure_batch(256)
    assert many["reserved_peak_bytes"].value is None
    assert many["device_used_bytes"].value is None
    grown = many["generate_anonymous_bytes"].value - few["generate_anonymous_bytes"].value
    keys_and_values = (256 - 8) * 67 * 512
    assert grown > keys_and_values / 2


def test_the_cache_is_measured_and_computed(cell: Any) -> None:
    options = Options(prompt_tokens=16, new_tokens=4, batch_size=3)
    values = measure(cell, options, make_context(Path("/"))).values
    expected = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, float32
    assert values["kv_bytes_per_token"].value == expected
    assert values["kv_bytes_per_token_measured"].value == expected


def test_a_cache_that_is_not_what_the_config_says_is_flagged(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = load(checkpoint)
    cell.model.config.head_dim = 8  # the layers were built with 16
    measured = measure(cell, Options(prompt_tokens=4, new_tokens=2), make_context(Path("/")))
    assert measured.validity.status == "flagged"
    assert (
        "the model caches 512 bytes per token, its config says 256: trust the measured figure"
        in measured.validity.reasons
    )


def capacity_of(device: str = "cpu", scale: float = 1.0, context: int = 0) -> dict[str, Any]:
    """Given readings: 2 MB and 100 kB a token, of which each sequence of a batch takes 1 MB."""
    short, pair = Phase("prefill", 1, 32), Phase("prefill", 2, 32)
    prefill, generate = Phase("prefill", 1, 128), Phase("generate", 1, 128, 4)
    grown = {short: 5_200_000, pair: 9_400_000, prefill: 14_800_000, generate: 10_000_000}
    held = 20_000_000
    readings = {
        phase: Reading(held + round(scale * size), held, context=context, cache_growth=512)
        for phase, size in grown.items()
    }
    engine: Any = SimpleNamespace(device=device, max_context=256)
    return find_capacity(engine, WORK, readings, (prefill, generate), (short, pair))


WORK = Work(
    weight_bytes=None, kv_bytes=512, layer_weights=None, head_weights=0, attention_width=None,
    head_everywhere=False, logit_bytes=0, attention_curve=0.0,
)  # fmt: skip


def test_what_fits_a_card_follows_from_the_readings() -> None:
    """A sequence of 128 tokens takes 13.8 MB; 1 MB is shared, 20 MB are held."""
    found = capacity_of()
    assert [found[f"largest_context[{card}]"] for card in CARDS] == [256] * 6
    for card, size in CARDS.items():
        assert found[f"largest_batch[{card}]"] == (size - 21_000_000) // 13_800_000


def test_memory_of_cuda_s_context_is_not_given_to_sequences() -> None:
    found = capacity_of(context=500_000_000)
    assert found["largest_batch[8GB]"] == (7_520_000_000 - 521_000_000) // 13_800_000


def test_a_growth_that_may_be_noise_is_not_extrapolated_on_a_cpu() -> None:
    for device, known in (("cpu", False), ("cuda:0", True)):
        found = capacity_of(device, scale=0.5)
        assert (found["largest_batch[8GB]"] is not None) is known
        assert (found["largest_context[8GB]"] is not None) is known


# Of the 17 MB that a sequence takes 8 are logits, and again the last step's while decoding.
LOGITS = {
    **{**LARGER, "vocab_size": 2_000_000, "hidden_size": 32, "intermediate_size": 64},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
}


@linux_only
@pytest.mark.slow
def test_the_largest_batch_is_computed_from_one_sequence(tmp_path: Path) -> None:
    """Against the slope of the peaks that batches of 4 and 12 really have."""
    write_llama(tmp_path / "model", **LOGITS, tie_word_embeddings=True)
    expected = call_in_worker(measure_largest_batch, tmp_path / "model")
    found = call_in_worker(compute_largest_batch, tmp_path / "model")
    assert found == pytest.approx(expected, rel=0.2)


def compute_largest_batch(folder: Path) -> Any:
    options = Options(prompt_tokens=2048, new_tokens=2)
    measured = measure(load(folder), options, make_context(Path("/")))
    return measured.values["largest_batch[8GB]"].value


def measure_largest_batch(folder: Path) -> float:
    cell = load(folder)
    readings: list[Any] = []
    peaks = []
    for batch in (4, 12):
        phases = (Phase("prefill", batch, 2048), Phase("generate", batch, 2048, 2))
        readings = [read_phase(cell, cell.count_work(), phase) for phase in phases]
        peaks.append(max(reading.grown for reading in readings))
    each = (peaks[1] - peaks[0]) / (12 - 4)
    return (CARDS["8GB"] - readings[-1].held - (peaks[0] - 4 * each)) / each


@linux_only
@pytest.mark.e2e
def test_the_order_of_cells_and_measurements_does_not_matter(tmp_path: Path) -> None:
    """The same cell alone, after a larger one, and after other measurements."""
    write_llama(tmp_path / "small", **LARGER)
    write_llama(tmp_path / "large", **{**LARGER, "hidden_size": 1024, "intermediate_size": 4096})
    device = call_in_worker(probe_device, "cpu")
    executor = LocalExecutor(tmp_path, Machine(device, {}, online=False), lambda *_: None)
    fp32 = PrecisionSpec(name="fp32", use="fp32", options=load_precision("fp32").options())

    def run(model: str, measurement: str, **options: int) -> Record:
        chosen = load_measurement(measurement).options(**options)
        cell = Cell(ModelSpec(name=model, source=str(tmp_path / model)), fp32, ())
        return executor.measure(cell, MeasurementSpec(name=measurement, options=chosen))

    lengths = {"prompt_tokens": 256, "new_tokens": 16, "batch_size": 2}
    alone = run("small", "memory", **lengths)
    executor.close()
    large = run("large", "memory", **lengths)
    after_large = run("small", "memory", **lengths)
    executor.close()
    speed = {"prompt_tokens": 8, "new_tokens": 3, "min_rounds": 3, "min_time_s": 0, "warmup_s": 0}
    others = [run("small", "throughput", **speed), run("small", "footprint")]
    after_others = run("small", "memory", **lengths)
    executor.close()
    for record in (large, after_large, alone, after_others, *others):
        assert record.usable, record
    for name in JUDGED:
        expected = alone.values[name].value
        assert expected > 30 * MIB
        assert large.values[name].value > 2 * expected
        for record in (after_large, after_others):
            assert record.values[name].value == pytest.approx(expected, rel=0.05), name


@linux_only
def test_a_larger_batch_needs_more(cell: Any) -> None:
    """2048 times the prompt: its activations are megabytes, far above what is noise here."""
    context = make_context(Path("/"))
    small = measure(cell, Options(prompt_tokens=4, new_tokens=2), context)
    large = measure(cell, Options(prompt_tokens=128, new_tokens=2, batch_size=64), context)
    for phase in ("prefill", "generate"):
        name = f"{phase}_peak_bytes"
        keys_and_values = 64 * 128 * 2 * 2 * 32 * 4  # tokens, k and v, layers, width, fp32
        grown = large.values[name].value - small.values[name].value
        assert grown > keys_and_values


def test_a_batch_that_cannot_fit_a_cpu_is_refused_before_it_runs(cell: Any) -> None:
    """Earlier readings are kept; without the refusal the kernel would kill the process."""
    free = free_bytes("cpu")
    assert free is not None
    batch = 4 * free // (512 * 20)
    options = Options(prompt_tokens=16, new_tokens=4, batch_size=batch)
    measured = measure(cell, options, make_context(Path("/")))
    assert measured.validity.status == "failed"
    (reason,) = measured.validity.reasons
    pattern = (
        rf"out of memory in prefill \(batch {batch}, 16 prompt tokens, 1 new\): "
        r"it needs at least \S+ GB on top of what is held, \S+ GB were free; not run"
    )
    assert re.fullmatch(pattern, reason)
    values = measured.values
    assert values["weights_bytes"].value is not None
    assert values["prefill_peak_bytes"].value is values["generate_peak_bytes"].value is None
    assert values["largest_batch[8GB]"].value is None


def test_readings_are_kept_before_each_phase_that_the_process_may_not_survive(
    cell: Any,
) -> None:
    kept: dict[str, Measured] = {}
    context = dataclasses.replace(
        make_context(Path("/")), keep=lambda measured, before: kept.update({before: measured})
    )
    measured = measure(cell, Options(prompt_tokens=16, new_tokens=4), context)
    assert list(kept) == [
        "prefill (batch 1, 16 prompt tokens, 1 new)",
        "generate (batch 1, 16 prompt tokens, 4 new)",
    ]
    for name in ("load_peak_bytes", "weights_bytes"):
        assert {one.values[name].value for one in kept.values()} == {measured.values[name].value}
    assert {one.values["generate_peak_bytes"].value for one in kept.values()} == {None}


@linux_only
@pytest.mark.e2e
def test_memory_that_runs_out_is_reported_with_phase_need_and_what_was_free(
    checkpoint: Path,
) -> None:
    """Within a limit of the process that free memory does not show."""
    measured = call_in_worker(measure_within_limit, checkpoint)
    assert measured.validity.status == "failed"
    (reason,) = measured.validity.reasons
    assert re.fullmatch(
        r"out of memory in prefill \(batch 8192, 128 prompt tokens, 1 new\): "
        r"it needs at least \S+ GB on top of what is held, \S+ GB were free",
        reason,
    )
    assert measured.values["prefill_peak_bytes"].value is None
    assert measured.values["generate_peak_bytes"].value is None


def measure_within_limit(checkpoint: Path) -> Any:
    cell = load(checkpoint)
    in_use = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 300 * MIB, resource.RLIM_INFINITY))
    options = Options(prompt_tokens=128, new_tokens=2, batch_size=8192)
    return measure(cell, options, make_context(Path("/")))


def test_where_the_peak_cannot_be_reset_it_is_none_and_flagged(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers that mount /proc read-only."""
    monkeypatch.setattr(meter, "CLEAR_REFS", tmp_path / "gone" / "clear_refs")
    measured = measure(
        load(checkpoint), Options(prompt_tokens=4, new_tokens=2), make_context(Path("/"))
    )
    values = {name: value.value for name, value in measured.values.items()}
    present = {name for name, value in values.items() if value is not None}
    assert present == {
        *("weights_bytes", "load_anonymous_bytes", "generate_anonymous_bytes"),
        *("kv_bytes_per_token", "kv_bytes_per_token_measured"),
    }
    assert measured.protocol["method"] == "unavailable"
    assert measured.validity.status == "flagged"
    assert measured.validity.reasons == (
        "load_peak_bytes is unavailable on this machine",
        "prefill_peak_bytes is unavailable on this machine",
        "generate_peak_bytes is unavailable on this machine",
    )


def test_the_context_is_checked(cell: Any) -> None:
    context = make_context(Path("/"))
    measure(cell, Options(prompt_tokens=254, new_tokens=2), context)
    with pytest.raises(InputError, match="prompt and new tokens make 257, m has a context of 256"):
        measure(cell, Options(prompt_tokens=255, new_tokens=2), context)


def test_the_ratio_is_peak_over_peak() -> None:
    def record(peak: int | None) -> object:
        return make_record("memory", values={"generate_peak_bytes": peak})

    assert compare(record(300), record(1200))["generate_peak_ratio"].value == 0.25
    assert compare(record(None), record(1200))["generate_peak_ratio"].value is None
    assert compare(record(300), record(None))["generate_peak_ratio"].value is None
    assert compare(record(300), record(0))["generate_peak_ratio"].value is None


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_weights_in_memory_are_those_of_the_footprint(tmp_path: Path, precision: str) -> None:
    """Not the pages of the checkpoint's file that happen to have been read."""
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    held, total, prefill = call_in_worker(weigh, tmp_path / "model", precision)
    assert held == pytest.approx(total, rel=0.1)
    assert prefill > 0.9 * total


def weigh(folder: Path, precision: str) -> tuple[int, int, int]:
    """Bytes held after loading, bytes by the footprint, peak of a prefill; in a fresh process."""
    cell = load(folder, precision)
    cell.meter.start_phase()
    prompt = torch.zeros(1, 8, dtype=torch.long)
    with torch.inference_mode():
        cell.model(input_ids=prompt)
    held, prefill = cell.memory["weights_bytes"], cell.meter.peak_bytes()
    assert held is not None
    assert prefill is not None
    return held, cell.counts.total_bytes, prefill
