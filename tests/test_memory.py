"""memory: a known allocation is read as it is, and what cannot be read is None, never 0."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cells_in_process import load, make_context, write_llama
from records import make_record
from transformers import LlamaConfig, LlamaForCausalLM

from harness.errors import InputError
from harness.metrics.memory import Options, compare, measure
from harness.worker import meter
from harness.worker.meter import MemoryMeter
from harness.worker.process import call_in_worker

MIB = 1 << 20
linux_only = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks on a CPU need Linux's /proc"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("memory") / "model")


@linux_only
def test_a_known_allocation_is_read_within_two_percent() -> None:
    """256 MiB held and 512 MiB let go: the peak holds both, what is held now only the first."""
    script = """
import json
from harness.worker.meter import MemoryMeter

def allocate(mib):
    return b"x" * (mib << 20)

before = allocate(300)  # a higher peak than what follows, from before the meter
del before
meter = MemoryMeter("cpu")
found = {"none": meter.current_bytes()}
meter.start_phase()
found["no_peak"] = meter.peak_bytes()
held = allocate(256)
found["held"], found["held_peak"] = meter.current_bytes(), meter.peak_bytes()
more = allocate(512)
del more
meter.settle()
found["after"], found["after_peak"] = meter.current_bytes(), meter.peak_bytes()
meter.start_phase()
found["new_phase_peak"] = meter.peak_bytes()
found["method"] = meter.method
print(json.dumps(found))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    found = json.loads(answer.stdout)
    assert found["method"] == "VmHWM reset by clear_refs"
    slack = 0.02 * 256 * MIB
    assert found["none"] < slack
    assert found["no_peak"] < slack
    for name in ("held", "held_peak", "after", "new_phase_peak"):
        assert found[name] == pytest.approx(256 * MIB, rel=0.02), name
    assert found["after_peak"] == pytest.approx(768 * MIB, rel=0.02)


@linux_only
def test_peaks_are_integers_in_their_order(checkpoint: Path) -> None:
    options = Options(prompt_tokens=16, new_tokens=4)
    measured = measure(load(checkpoint), options, make_context(Path("/")))
    values = {name: value.value for name, value in measured.values.items()}
    assert list(values) == [
        *("load_peak_bytes", "weights_bytes", "prefill_peak_bytes", "generate_peak_bytes")
    ]
    assert all(isinstance(value, int) and value >= 0 for value in values.values())
    assert measured.validity.status == "ok"
    assert measured.protocol == {
        "prompt_tokens": 16,
        "new_tokens": 4,
        "batch_size": 1,
        "method": "VmHWM reset by clear_refs",
    }


@linux_only
def test_a_larger_batch_needs_more(checkpoint: Path) -> None:
    """4096 times the prompt: its activations are megabytes, far above what is noise here."""
    cell, context = load(checkpoint), make_context(Path("/"))
    small = measure(cell, Options(prompt_tokens=4, new_tokens=2), context)
    large = measure(cell, Options(prompt_tokens=128, new_tokens=2, batch_size=128), context)
    for phase in ("prefill", "generate"):
        name = f"{phase}_peak_bytes"
        keys_and_values = 128 * 128 * 2 * 2 * 32 * 4  # tokens, k and v, layers, width, fp32
        grown = large.values[name].value - small.values[name].value
        assert grown > keys_and_values


def test_where_the_peak_cannot_be_reset_it_is_none_and_flagged(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers that mount /proc read-only."""
    monkeypatch.setattr(meter, "_CLEAR_REFS", tmp_path / "gone" / "clear_refs")
    measured = measure(
        load(checkpoint), Options(prompt_tokens=4, new_tokens=2), make_context(Path("/"))
    )
    values = {name: value.value for name, value in measured.values.items()}
    assert values.pop("weights_bytes") is not None
    assert set(values.values()) == {None}
    assert measured.protocol["method"] == "unavailable"
    assert measured.validity.status == "flagged"
    assert measured.validity.reasons == (
        "load_peak_bytes is unavailable on this machine",
        "prefill_peak_bytes is unavailable on this machine",
        "generate_peak_bytes is unavailable on this machine",
    )


def test_without_proc_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_STATUS", tmp_path / "status")
    reader = MemoryMeter("cpu")
    reader.start_phase()
    assert (reader.peak_bytes(), reader.current_bytes()) == (None, None)
    assert reader.method == "unavailable"


def test_the_context_is_checked(checkpoint: Path) -> None:
    cell, context = load(checkpoint), make_context(Path("/"))
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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
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
    assert held == pytest.approx(total, rel=0.05)
    assert prefill > 0.95 * total


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
    return held, cell.counts["total_bytes"], prefill
