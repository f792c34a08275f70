"""throughput: what its rounds amount to, what is kept, and what becomes of a batch too big."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness.engines.base import Engine
from harness.engines.shared.batches import is_out_of_memory
from harness.errors import InputError
from harness.metrics.speed_values import summarise_device, summarise_rounds
from harness.metrics.throughput import Options, measure
from harness.records.record import Measured
from harness.timing import workloads as _shapes
from harness.timing.growth import GrowthWatch
from tests.support.cells_in_process import load, make_context, write_llama
from tests.support.suite_files import PARTS, check_marked, load_parts, suite_text

QUICK = {
    "prompt_tokens": 8,
    "new_tokens": 3,
    "min_rounds": 3,
    "min_time_s": 0.0,
    "warmup_s": 0.0,
    "roofline": False,
}
PER_SHAPE = (
    "prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s", "tpot_s", "itl_p50_s", "itl_p90_s",
    "itl_p99_s", "ttft_device_s", "tpot_device_s", "energy_j_per_token", "step_bytes",
)  # fmt: skip
ONCE = ("load_s",)
CONTEXT = make_context(Path("/"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("throughput") / "model")


@pytest.fixture(scope="module")
def cell(checkpoint: Path) -> Engine:
    return load(checkpoint)


def options(**given: Any) -> Options:
    return Options(**{**QUICK, **given})


def test_speeds_by_hand() -> None:
    """Three rounds of N = 5 tokens; medians; TPOT over N - 1 = 4 gaps."""
    rounds = [
        [0.5, 0.6, 0.7, 0.8, 0.9],  # ttft 0.5, tpot 0.1
        [0.4, 0.5, 0.9, 1.0, 1.2],  # ttft 0.4, tpot 0.2
        [0.2, 0.3, 0.4, 0.5, 1.4],  # ttft 0.2, tpot 0.3
    ]
    # sorted: 0.1 eight times, 0.1, 0.2, 0.4, 0.9
    gaps = [0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.1, 0.2, 0.1, 0.1, 0.1, 0.9]
    found = summarise_rounds(rounds, batch=8, prompt_tokens=100)
    assert found == {
        "prefill_tokens_per_s": pytest.approx(8 * 100 / 0.4),
        "decode_tokens_per_s": pytest.approx(8 / 0.2),
        "ttft_s": pytest.approx(0.4),
        "tpot_s": pytest.approx(0.2),
        "itl_p50_s": pytest.approx(0.1),
        "itl_p90_s": pytest.approx(np.percentile(gaps, 90)),
        "itl_p99_s": None,
    }


def test_two_tokens_have_one_gap() -> None:
    assert summarise_rounds([[1.0, 1.25]], 1, 10)["tpot_s"] == pytest.approx(0.25)


@pytest.mark.parametrize(("gaps", "given"), [(999, False), (1000, True), (1500, True)])
def test_no_99th_percentile_from_fewer_than_a_thousand_gaps(gaps: int, given: bool) -> None:
    lengths = np.random.default_rng(0).exponential(size=gaps)
    ready = [1.0, *(1 + np.cumsum(lengths))]
    found = summarise_rounds([ready], 1, 1)["itl_p99_s"]
    assert (found is not None) is given
    if found is not None:
        assert found == pytest.approx(np.percentile(lengths, 99))


def test_device_times_by_hand() -> None:
    """Seconds of the first and the last of four tokens by CUDA events."""
    assert summarise_device([(0.1, 0.7), (0.2, 0.5), (0.3, 3.3)], 4) == {
        "ttft_device_s": pytest.approx(0.2),
        "tpot_device_s": pytest.approx(0.2),
    }
    assert summarise_device([], 4) == {"ttft_device_s": None, "tpot_device_s": None}


def test_every_round_is_kept_and_values_follow_from_them(cell: Engine) -> None:
    measured = measure(cell, options(batch_sizes=(1, 3), min_rounds=4), CONTEXT)
    assert set(measured.samples) == {"1", "3"}
    assert set(measured.values) == {f"{n}[{b}]" for n in PER_SHAPE for b in (1, 3)} | set(ONCE)
    for batch in (1, 3):
        rounds = measured.samples[str(batch)]
        assert (rounds["batch_size"], rounds["prompt_tokens"]) == (batch, 8)
        assert len(rounds["ttft_s"]) == len(rounds["decode_s"]) == len(rounds["itl_s"]) == 4
        again = []
        for first, whole, gaps in zip(rounds["ttft_s"], rounds["decode_s"], rounds["itl_s"]):
            assert len(gaps) == 2
            assert sum(gaps) == pytest.approx(whole, abs=1e-8)
            again.append([first, first + gaps[0], first + whole])
        for name, expected in summarise_rounds(again, batch, 8).items():
            value = measured.values[f"{name}[{batch}]"]
            near = None if expected is None else pytest.approx(expected, rel=1e-5)
            assert value.value == near, name
            assert value.n == 4
            assert value.stderr is None  # rounds of one process are no independent samples
        for name in ("ttft_device_s", "tpot_device_s", "energy_j_per_token"):
            assert measured.values[f"{name}[{batch}]"].value is None
        assert measured.values[f"step_bytes[{batch}]"].n is None
    assert measured.protocol["batch_sizes"] == [1, 3]
    assert measured.protocol["prompt_tokens"] == 8


def test_the_load_time_is_the_loaders(cell: Engine) -> None:
    loaded = dataclasses.replace(cell, seconds={"load": 4.0, "tokenizer": 9.0})
    assert measure(loaded, options(), CONTEXT).values["load_s"].value == 4.0


def test_several_prompt_lengths_are_named_beside_the_batch(cell: Engine) -> None:
    given = options(prompt_tokens=(8, 16), batch_sizes=(2, 1))
    measured = measure(cell, given, CONTEXT)
    assert list(measured.samples) == ["1x8", "2x8", "1x16", "2x16"]
    assert given.qualifiers == tuple(measured.samples)
    for shape, rounds in measured.samples.items():
        assert shape == f"{rounds['batch_size']}x{rounds['prompt_tokens']}"
        speed = measured.values[f"prefill_tokens_per_s[{shape}]"].value
        tokens = rounds["batch_size"] * rounds["prompt_tokens"]
        assert speed == pytest.approx(tokens / np.median(rounds["ttft_s"]))


@pytest.mark.parametrize("compiled", [False, True])
def test_static_cache_and_compile_are_options(checkpoint: Path, compiled: bool) -> None:
    if compiled and not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("no C++ compiler on this machine")
    measured = measure(load(checkpoint), options(cache="static", compile=compiled), CONTEXT)
    assert measured.validity.status == "ok" or "settled" in measured.validity.reasons[0]
    assert (measured.protocol["cache"], measured.protocol["compile"]) == ("static", compiled)
    compile_s = measured.values.get("compile_s[1]")
    if not compiled:
        assert compile_s is None
    else:  # apart from the rounds
        assert compile_s is not None
        assert compile_s.value > 10 * max(measured.samples["1"]["ttft_s"])


def test_energy_is_that_of_the_rounds_per_new_token(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter of a GPU that takes 6 J between its two readings."""
    counter = iter((100.0, 106.0))
    monkeypatch.setattr(_shapes, "read_energy_j", lambda device: next(counter))
    values = measure(cell, options(batch_sizes=(2,), min_rounds=4), CONTEXT).values
    assert values["energy_j_per_token[2]"].value == pytest.approx(6 / (2 * 3 * 4))


def test_a_batch_that_does_not_fit_is_reported_and_the_smaller_ones_stand(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the CPU allocator's own, of a batch whose prompt alone needs a petabyte."""
    real = _shapes.make_prompt
    monkeypatch.setattr(_shapes, "free_bytes", lambda device: 2_500_000_000)

    def make(model: Any, batch: int, *rest: Any) -> torch.Tensor:
        return torch.empty(1 << 50) if batch == 2 else real(model, batch, *rest)

    monkeypatch.setattr(_shapes, "make_prompt", make)
    measured = measure(cell, options(batch_sizes=(4, 1, 2)), CONTEXT)
    assert measured.validity.status == "flagged"
    assert [r for r in measured.validity.reasons if "settled" not in r] == [
        "out of memory at batch 2: 2.5 GB were free",
        "batch 4 not tried: batch 2 did not fit",
    ]
    assert set(measured.samples) == {"1"}
    with pytest.raises(InputError, match="no batch size fits: out of memory at batch 2"):
        measure(cell, options(batch_sizes=(2,)), CONTEXT)


def test_a_batch_that_cannot_fit_is_not_tried(cell: Engine) -> None:
    """A real one: 10**9 sequences of 11 tokens; the kernel would have ended this process."""
    given = options(batch_sizes=(1, 10**9, 2 * 10**9))
    measured = measure(cell, given, CONTEXT)
    told = [reason for reason in measured.validity.reasons if "settled" not in reason]
    # 8 token ids of 8 bytes; 2 layers x 2 x 2 heads x 16 x 4 bytes for 11 tokens; 264 logits
    needed = 8 * 8 + 11 * 512 + 264 * 4
    assert told[0].startswith(
        f"out of memory at batch 1000000000: it needs at least {needed:.3g} GB, "
    )
    assert told[0].endswith(" GB were free; not run")
    assert told[1] == "batch 2000000000 not tried: batch 1000000000 did not fit"
    assert set(measured.samples) == {"1"}


def test_a_longer_prompt_that_does_not_fit_leaves_the_shorter_s_batches(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shapes, "free_bytes", lambda device: 4 * (8 * 16 + 19 * 512 + 264 * 4) - 1)
    monkeypatch.setattr(GrowthWatch, "predict", lambda *_: None)
    measured = measure(cell, options(prompt_tokens=(16, 8), batch_sizes=(1, 4, 5)), CONTEXT)
    assert list(measured.samples) == ["1x16", "1x8", "4x8", "5x8"]
    told = [reason for reason in measured.validity.reasons if "settled" not in reason]
    assert told[0].startswith("out of memory at batch 4x16: it needs at least 4.36e-05 GB")
    assert told[1] == "batch 5x16 not tried: batch 4x16 did not fit"


def test_a_larger_batch_is_judged_by_what_a_smaller_one_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What must be there at least is a fraction of what the activations of a real model take."""
    wide = load(write_llama(tmp_path, hidden_size=256, intermediate_size=1024))
    given = options(prompt_tokens=200, batch_sizes=(4, 64, 128))
    least = 64 * (8 * 200 + 203 * 2 * 2 * 2 * 64 * 4 + 264 * 4)
    monkeypatch.setattr(_shapes, "free_bytes", lambda device: least + (8 << 20))
    measured = measure(wide, given, CONTEXT)
    told = [reason for reason in measured.validity.reasons if "settled" not in reason]
    assert set(measured.samples) == {"4"}
    assert told[0].startswith("out of memory at batch 64: by what a smaller batch took it needs ")
    assert told[0].endswith(f" {(least + (8 << 20)) / 1e9:.3g} GB were free; not run")
    assert told[1] == "batch 128 not tried: batch 64 did not fit"


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_what_a_batch_takes_is_foretold(tmp_path: Path, cache: str) -> None:
    """Within what the C library's heap may add: a fifth too little, half too much."""
    wide = load(write_llama(tmp_path, hidden_size=256, intermediate_size=1024))
    timer = _shapes.ShapeTimer(wide, options(prompt_tokens=200, cache=cache))
    timer.time(16, 200)
    expected = timer._expected_bytes(48, 200)
    timer.time(48, 200)
    took = timer._growth._taken[200][48] + (timer._cache_bytes(48, 200) if cache == "static" else 0)
    assert expected is not None
    assert 0.8 * took < expected < 1.5 * took
    assert took > 2 * timer._least_bytes(48, 200)


def test_every_shape_is_kept_before_the_next_is_begun(cell: Engine) -> None:
    """The roofline included; without the values that it gives."""
    kept: list[tuple[str, Measured]] = []
    context = dataclasses.replace(CONTEXT, keep=lambda m, before: kept.append((before, m)))
    given = options(batch_sizes=(1, 2, 3), roofline=True)
    measured = measure(cell, given, context)
    assert [(before, list(m.samples)) for before, m in kept] == [
        ("batch 2", ["1"]),
        ("batch 3", ["1", "2"]),
        ("the roofline", ["1", "2", "3"]),
    ]
    last = kept[-1][1]
    assert last.samples == measured.samples
    lacking = measured.values.keys() - last.values.keys()
    assert {name.partition("[")[0] for name in lacking} == {
        "mbu", "prefill_flop_utilisation", "bandwidth_bytes_per_s", "matmul_flop_per_s",
    }  # fmt: skip
    assert all(measured.values[name] == value for name, value in last.values.items())


def test_a_roofline_that_does_not_fit_leaves_the_shapes(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: str) -> None:
        raise MemoryError

    monkeypatch.setattr(_shapes, "measure_bandwidth", fail)
    measured = measure(cell, options(roofline=True, batch_sizes=(1, 2)), CONTEXT)
    assert measured.validity.status == "flagged"
    assert any(r.startswith("out of memory at the roofline: ") for r in measured.validity.reasons)
    assert set(measured.samples) == {"1", "2"}
    assert "mbu[1]" not in measured.values


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    broken = RuntimeError("CUDA error: device-side assert triggered")
    assert not is_out_of_memory(broken)

    def fail(*_: Any) -> None:
        raise broken

    monkeypatch.setattr(_shapes, "make_prompt", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        measure(cell, options(), CONTEXT)


def test_prompt_and_new_tokens_must_fit_the_context(cell: Engine) -> None:
    assert measure(cell, options(prompt_tokens=253), CONTEXT).values
    told = "make 257, m has a context of 256: with 3 new ones .* be 253 at most"
    with pytest.raises(InputError, match=told):
        measure(cell, options(prompt_tokens=254), CONTEXT)


def test_a_prompt_that_is_too_long_leaves_the_shorter_ones_standing(
    cell: Engine,
) -> None:
    measured = measure(cell, options(prompt_tokens=(8, 254), batch_sizes=(1, 2)), CONTEXT)
    assert list(measured.samples) == ["1x8", "2x8"]
    assert measured.validity.status == "flagged"
    assert "prompt and new tokens make 257" in measured.validity.reasons[0]


@pytest.mark.parametrize(
    "given",
    [
        {"batch_sizes": (1, 8, 1)},
        {"batch_sizes": (0,)},
        {"batch_sizes": (4, -1)},
        {"batch_sizes": ()},
        {"prompt_tokens": (8, 8)},
        {"prompt_tokens": ()},
        {"prompt_tokens": (8, 0)},
        {"compile": True},
    ],
)
def test_shapes_are_distinct_and_positive(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**given)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("min_rounds: ▼0", ["expected an integer of at least 3, found 0"]),
        ("processes: ▼0", ["expected an integer of at least 1, found 0"]),
        ("prompt_tokens: ▼0", ["expected an integer of at least 1, found 0"]),
        ("prompt_tokens: [8, ▼0]", ["expected an integer of at least 1, found 0"]),
        ("prompt_tokens: ▼[]", ["a list of at least 1 item(s), found an empty one"]),
        ("prompt_tokens: ▼[8, 8]", ["prompt_tokens must be distinct"]),
        ("prompt_tokens: ▼many", ["expected an integer, found the string 'many'"]),
        ("cache: ▼statik", ["did you mean 'static'?"]),
        ("compile: ▼true", ["compile: true needs `cache: static`"]),
    ],
)
def test_a_suite_is_told_what_is_wrong(tmp_path: Path, given: str, parts: list[str]) -> None:
    text = suite_text(measure=f"measure: {{throughput: {{{given}}}}}")
    check_marked(tmp_path, text, *parts)


def test_limits_know_the_names_of_several_prompt_lengths(tmp_path: Path) -> None:
    lengths = "measure: {throughput: {batch_sizes: [1, 8], prompt_tokens: [64, 512]}}"
    limit = "limits: [{precision: nf4, metric: 'throughput.%s', min: 1}]"
    for metric in ("decode_speedup[8x512]", "pays_from_batch", "pays_from_batch[512]"):
        parts = {"measure": lengths, "limits": limit % metric}
        assert load_parts(tmp_path, **parts).limits[0].metric == f"throughput.{metric}"
    marked = limit.replace("'thr", "▼'thr") % "decode_speedup[8]"
    text = suite_text(**{**PARTS, "measure": lengths, "limits": marked})
    check_marked(tmp_path, text, "unknown batch size", "'8'", "1x512, 1x64, 8x512, 8x64")
