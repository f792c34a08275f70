"""throughput: its values, what is kept, and batches that do not fit."""

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
from harness.metrics.throughput import Options, measure
from harness.records.record import Measured
from harness.timing import prompts, roofline, workloads
from harness.timing.rounds import summarise_rounds
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
PER_WORKLOAD = (
    "prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s", "tpot_s", "itl_p50_s", "itl_p90_s",
    "itl_p99_s", "ttft_device_s", "tpot_device_s", "energy_j_per_token", "step_bytes",
)  # fmt: skip
CONTEXT = make_context(Path("/"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("throughput") / "model")


@pytest.fixture(scope="module")
def cell(checkpoint: Path) -> Engine:
    return load(checkpoint)


def options(**given: Any) -> Options:
    return Options(**{**QUICK, **given})


def test_every_round_is_kept_and_values_follow_from_them(cell: Engine) -> None:
    measured = measure(cell, options(batch_sizes=(1, 3), min_rounds=4), CONTEXT)
    assert set(measured.samples) == {"1", "3"}
    assert set(measured.values) == {f"{n}[{b}]" for n in PER_WORKLOAD for b in (1, 3)} | {"load_s"}
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


def test_the_load_time_is_that_of_the_loader(cell: Engine) -> None:
    loaded = dataclasses.replace(cell, seconds={"load": 4.0, "tokenizer": 9.0})
    assert measure(loaded, options(), CONTEXT).values["load_s"].value == 4.0


def test_several_prompt_lengths_are_named_after_the_batch(cell: Engine) -> None:
    given = options(prompt_tokens=(8, 16), batch_sizes=(2, 1))
    measured = measure(cell, given, CONTEXT)
    assert list(measured.samples) == ["1x8", "2x8", "1x16", "2x16"]
    assert given.list_qualifiers("batch size") == tuple(measured.samples)
    for name, rounds in measured.samples.items():
        assert name == f"{rounds['batch_size']}x{rounds['prompt_tokens']}"
        speed = measured.values[f"prefill_tokens_per_s[{name}]"].value
        tokens = rounds["batch_size"] * rounds["prompt_tokens"]
        assert speed == pytest.approx(tokens / np.median(rounds["ttft_s"]))


def test_a_static_cache_is_an_option(checkpoint: Path) -> None:
    measured = measure(load(checkpoint), options(cache="static"), CONTEXT)
    assert (measured.protocol["cache"], measured.protocol["compile"]) == ("static", False)
    assert measured.values["decode_tokens_per_s[1]"].value is not None
    assert "compile_s[1]" not in measured.values


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler on this machine"
)
def test_compiling_is_timed_apart_from_the_rounds(checkpoint: Path) -> None:
    measured = measure(load(checkpoint), options(cache="static", compile=True), CONTEXT)
    assert measured.protocol["compile"] is True
    assert measured.values["compile_s[1]"].value is not None
    assert len(measured.samples["1"]["ttft_s"]) == 3


def test_energy_is_that_of_the_rounds_per_new_token(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter of a GPU that takes 6 J between its two readings."""
    counter = iter((100.0, 106.0))
    monkeypatch.setattr(workloads, "read_energy_j", lambda device: next(counter))
    values = measure(cell, options(batch_sizes=(2,), min_rounds=4), CONTEXT).values
    assert values["energy_j_per_token[2]"].value == pytest.approx(6 / (2 * 3 * 4))


def find_lacks(measured: Measured) -> list[str]:
    """What was lacking; on a busy machine a warm-up may not settle, which is another reason."""
    return [reason for reason in measured.validity.reasons if "settled" not in reason]


def test_a_batch_that_does_not_fit_is_reported_and_smaller_ones_keep_their_numbers(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the CPU allocator's own, of a batch whose prompt alone needs a petabyte."""
    real = workloads.make_prompt
    monkeypatch.setattr(prompts, "free_bytes", lambda device: 2_500_000_000)

    def make(model: Any, batch: int, *rest: Any) -> torch.Tensor:
        return torch.empty(1 << 50) if batch == 2 else real(model, batch, *rest)

    monkeypatch.setattr(workloads, "make_prompt", make)
    measured = measure(cell, options(batch_sizes=(4, 1, 2)), CONTEXT)
    assert measured.validity.status == "flagged"
    needed = 2 * (8 * 8 + 264 * 4 + 11 * 512) / 1e9
    assert find_lacks(measured) == [
        f"out of memory at batch 2: it needs at least {needed:.3g} GB on top of what is held, "
        "2.5 GB were free",
        "batch 4 not tried: batch 2 did not fit",
    ]
    assert set(measured.samples) == {"1"}
    with pytest.raises(InputError, match="no workload fits: out of memory at batch 2"):
        measure(cell, options(batch_sizes=(2,)), CONTEXT)


def test_a_batch_that_cannot_fit_is_not_tried(cell: Engine) -> None:
    """A real one: 10**9 sequences of 11 tokens; the kernel would have ended this process."""
    given = options(batch_sizes=(1, 10**9, 2 * 10**9))
    measured = measure(cell, given, CONTEXT)
    # 8 token ids of 8 bytes; 2 layers x 2 x 2 heads x 16 x 4 bytes for 11 tokens; 264 logits
    needed = 8 * 8 + 11 * 512 + 264 * 4
    first, second = find_lacks(measured)
    assert first.startswith(
        f"out of memory at batch 1000000000: it needs at least {needed:.3g} GB on top of "
    )
    assert first.endswith(" GB were free; not run")
    assert second == "batch 2000000000 not tried: batch 1000000000 did not fit"
    assert set(measured.samples) == {"1"}


def test_after_a_longer_prompt_that_does_not_fit_shorter_ones_are_measured(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 4 * (8 * 16 + 19 * 512 + 264 * 4) - 1
    monkeypatch.setattr(prompts, "free_bytes", lambda device: free)
    measured = measure(cell, options(prompt_tokens=(16, 8), batch_sizes=(1, 4, 5)), CONTEXT)
    assert list(measured.samples) == ["1x16", "1x8", "4x8", "5x8"]
    first, second = find_lacks(measured)
    assert first.startswith("out of memory at batch 4x16: it needs at least 4.36e-05 GB")
    assert second == "batch 5x16 not tried: batch 4x16 did not fit"


@pytest.fixture
def _known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of which nothing needs to be measured."""
    monkeypatch.setattr(roofline, "measure_bandwidth", lambda device: 1e12)
    monkeypatch.setattr(roofline, "measure_matmul_peak", lambda device, dtype: 1e15)


@pytest.mark.usefixtures("_known_peaks")
def test_every_workload_is_kept_before_the_next_is_begun(cell: Engine) -> None:
    """The roofline is the last, and gives its values only then."""
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


def test_a_roofline_that_does_not_fit_leaves_the_speeds(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: str) -> None:
        raise MemoryError

    monkeypatch.setattr(roofline, "measure_bandwidth", fail)
    measured = measure(cell, options(roofline=True, batch_sizes=(1, 2)), CONTEXT)
    assert measured.validity.status == "flagged"
    assert any(r.startswith("out of memory at the roofline: ") for r in measured.validity.reasons)
    assert set(measured.samples) == {"1", "2"}
    assert "mbu[1]" not in measured.values


def test_other_errors_do_not_pass_for_a_lack_of_memory(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    broken = RuntimeError("CUDA error: device-side assert triggered")
    assert not is_out_of_memory(broken)

    def fail(*_: Any) -> None:
        raise broken

    monkeypatch.setattr(workloads, "make_prompt", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        measure(cell, options(), CONTEXT)


def test_prompt_and_new_tokens_must_fit_the_context(cell: Engine) -> None:
    assert measure(cell, options(prompt_tokens=253), CONTEXT).values
    expected = "make 257, m has a context of 256: with 3 new ones .* be 253 at most"
    with pytest.raises(InputError, match=expected):
        measure(cell, options(prompt_tokens=254), CONTEXT)


def test_of_a_prompt_that_is_too_long_only_the_shorter_ones_are_measured(cell: Engine) -> None:
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
def test_workloads_are_distinct_and_positive(given: dict[str, Any]) -> None:
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
def test_a_mistake_in_a_suite_is_explained(tmp_path: Path, given: str, parts: list[str]) -> None:
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


def test_limits_know_that_one_prompt_length_has_no_name(tmp_path: Path) -> None:
    limit = "limits: [{precision: nf4, metric: ▼'throughput.pays_from_batch[512]', max: 8}]"
    one = "measure: {throughput: {batch_sizes: [1, 8], prompt_tokens: 512}}"
    text = suite_text(**{**PARTS, "measure": one, "limits": limit})
    check_marked(tmp_path, text, "pays_from_batch takes no [512]: it is a single number")
    compiled = one.replace("512}", "512, also_compiled: {}}")
    text = suite_text(**{**PARTS, "measure": compiled, "limits": limit})
    check_marked(tmp_path, text, "unknown prompt length", "'512'", "compiled")
