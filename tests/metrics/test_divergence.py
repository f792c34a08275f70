"""divergence: exact over the whole vocabulary, checked against numpy; what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from harness.engines.base import Engine
from harness.errors import InputError
from harness.metrics.divergence import METRIC, Options, compare, is_intact, measure
from harness.metrics.divergence_values import find_quarters
from harness.metrics.text_windows import Window, plan_windows
from harness.records.record import Measured, Record
from harness.records.run_file import read_run
from harness.scoring.compare_distributions import compare_logits
from harness.suite.data_source import DataSource
from harness.suite.read import load_suite
from harness.verdicts.pairing import complete_record
from tests.support.cells_in_process import (
    SHAPE,
    load,
    make_context,
    write_checkpoint,
    write_tokenizer,
)
from tests.support.projects import Project, find_records
from tests.support.records import make_record

TEXT = "Once upon a time — there was a naïve 🦙 who counted: one, two, three.\n" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divergence")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    write_checkpoint(folder / "model")
    write_checkpoint(folder / "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Engine:
    return load(folder / "model")


@pytest.fixture(scope="module")
def other(folder: Path) -> Engine:
    return load(folder / "other")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(cell: Engine, folder: Path, reference: Record | None = None, **options: Any) -> Measured:
    given = Options(text=DataSource(path="text.txt"), **{"context": 64, **options})
    context = dataclasses.replace(make_context(folder), reference=reference)
    return measure(cell, given, context)


def keep(cell: Engine, folder: Path, **options: Any) -> Record:
    """The reference's record."""
    return make_record("divergence", measured=run(cell, folder, **options))


def numbers(measured: Measured) -> dict[str, Any]:
    return {name: value.value for name, value in measured.values.items()}


def compute_by_numpy(
    reference: Engine, other: Engine, windows: list[Window]
) -> dict[str, np.ndarray[Any, Any]]:
    """KL, agreement and Δp per token, from whole logits of one window after another."""
    ids = np.array(reference.require_tokenizer()(TEXT)["input_ids"])
    found: dict[str, list[float]] = {"kl": [], "agrees": [], "delta_p": []}
    for window in windows:
        rows = torch.tensor(ids[None, window.start : window.stop - 1])
        p, q = (_probabilities(c.model, rows)[-window.scored :] for c in (reference, other))
        targets = ids[window.stop - window.scored : window.stop]
        each = np.arange(window.scored)
        found["kl"] += (p * np.log(p / q)).sum(-1).tolist()
        found["agrees"] += (p.argmax(-1) == q.argmax(-1)).tolist()
        found["delta_p"] += (q[each, targets] - p[each, targets]).tolist()
    return {name: np.array(values, float) for name, values in found.items()}


def _probabilities(model: Any, rows: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        logits = model(rows).logits[0].float().numpy().astype(np.float64)
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exp / exp.sum(-1, keepdims=True))


def check_numbers(found: dict[str, Any], expected: dict[str, np.ndarray[Any, Any]]) -> None:
    kl, delta_p = expected["kl"], expected["delta_p"]
    assert found["tokens"] == len(kl)
    for name, value in {
        "kl_mean": kl.mean(),
        "kl_median": np.median(kl),
        "kl_p90": np.percentile(kl, 90),
        "kl_p99": np.percentile(kl, 99),
        "kl_p999": np.percentile(kl, 99.9),
        "kl_max": kl.max(),
        "top1_agreement": expected["agrees"].mean(),
        "delta_p_mean": delta_p.mean(),
        "delta_p_rms": np.sqrt((delta_p**2).mean()),
    }.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


# Against numpy


@pytest.mark.parametrize("protocol", ["sliding", "disjoint"])
def test_every_number_equals_a_few_lines_of_numpy(
    model: Engine, other: Engine, folder: Path, protocol: Any
) -> None:
    reference = keep(model, folder, protocol=protocol, batch_size=3)
    measured = run(other, folder, reference, protocol=protocol, batch_size=3)
    text_tokens = measured.protocol["text_tokens"]
    windows = plan_windows(text_tokens, protocol, 64)
    assert len(windows) > 3
    assert measured.items["chunk_tokens"] == [window.scored for window in windows]
    expected = compute_by_numpy(model, other, windows)
    found = numbers(measured)
    check_numbers(found, expected)
    assert found["kl_mean"] > 0.1
    assert 0 < found["top1_agreement"] < 1
    quarters = find_quarters(windows, 64)
    for index in range(4):
        here = quarters == index
        assert found[f"kl_mean[q{index + 1}]"] == pytest.approx(expected["kl"][here].mean())
        assert found[f"top1_agreement[q{index + 1}]"] == expected["agrees"][here].mean()
    assert sum(measured.items["chunk_kl"]) == pytest.approx(expected["kl"].sum())
    assert sum(measured.items["chunk_agrees"]) == expected["agrees"].sum()


def test_a_model_has_no_divergence_from_itself(model: Engine, folder: Path) -> None:
    found = numbers(run(model, folder, keep(model, folder)))
    assert found["kl_mean"] == found["kl_max"] == found["delta_p_rms"] == 0
    assert found["top1_agreement"] == 1


def test_another_batch_size_diverges_by_less_than_a_millionth(model: Engine, folder: Path) -> None:
    again = numbers(run(model, folder, keep(model, folder, batch_size=4), batch_size=1))
    assert again["kl_max"] < 1e-6
    assert again["top1_agreement"] == 1


def test_only_the_first_tokens_up_to_the_limit_are_scored(
    model: Engine, other: Engine, folder: Path
) -> None:
    found = numbers(run(other, folder, keep(model, folder, limit=100), limit=100))
    assert found["tokens"] == 99
    check_numbers(found, compute_by_numpy(model, other, plan_windows(100, "sliding", 64)))


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_a_reference_in_16_bits_or_fewer_is_kept_exactly(
    model: Engine, folder: Path, precision: str
) -> None:
    low = load(folder / "model", precision)
    measured = run(low, folder, batch_size=1)
    reference = make_record("divergence", measured=measured)
    assert numbers(run(low, folder, reference, batch_size=1))["kl_max"] == 0
    found = run(model, folder, reference, batch_size=1)
    windows = plan_windows(found.protocol["text_tokens"], "sliding", 64)
    check_numbers(numbers(found), compute_by_numpy(low, model, windows))


def test_a_tied_head_with_another_layout_is_kept(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=264, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    cell = load(write_tokenizer(tmp_path / "gpt2"))
    low = load(tmp_path / "gpt2", "bf16")
    reference = keep(cell, folder)
    assert reference.validity.status == "ok"
    assert numbers(run(cell, folder, reference))["kl_max"] == 0
    found = run(low, folder, reference, batch_size=1)
    windows = plan_windows(found.protocol["text_tokens"], "sliding", 64)
    check_numbers(numbers(found), compute_by_numpy(cell, low, windows))


def test_a_model_that_caps_its_logits_has_them_kept_whole_and_is_flagged(
    folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        **{**SHAPE, "head_dim": 16},
        final_logit_softcapping=2.0, initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    cell = load(write_tokenizer(tmp_path / "gemma"))
    low = load(tmp_path / "gemma", "bf16")
    reference = keep(cell, folder, limit=120)
    (reason,) = reference.validity.reasons
    assert reference.validity.status == "flagged"
    assert "soft-capping" in reason
    assert "all logits are kept instead of hidden states, 123 KiB" in reason
    assert reference.values["stored_bytes"].value == pytest.approx(119 * 264 * 4, rel=0.01)
    assert numbers(run(cell, folder, reference, limit=120))["kl_max"] == 0
    found = run(low, folder, reference, limit=120)
    assert found.validity.status == "flagged"
    check_numbers(numbers(found), compute_by_numpy(cell, low, plan_windows(120, "sliding", 64)))


def test_a_head_that_is_no_linear_layer_has_its_logits_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = load(folder / "model")

    class Doubling(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    cell.model.lm_head.__class__ = Doubling
    reference = keep(cell, folder)
    assert "the model's output head is no plain linear layer" in reference.validity.reasons[0]
    assert numbers(run(cell, folder, reference))["kl_max"] == 0


def test_a_token_without_probability_under_one_model() -> None:
    """Impossible for the reference: it adds nothing. For the candidate: infinitely far."""
    none, ln2 = -float("inf"), float(np.log(2))
    both = torch.tensor([[0.0, 0.0, none]])
    one = torch.tensor([0])
    kl, agrees, delta_p = compare_logits(both, torch.zeros(1, 3), one)[:, 0].tolist()
    assert kl == pytest.approx(np.log(3) - ln2)
    assert (agrees, delta_p) == (1.0, pytest.approx(1 / 3 - 1 / 2))
    assert compare_logits(both, both, one).tolist() == [[0.0], [1.0], [0.0]]
    assert compare_logits(torch.zeros(1, 3), both, one)[0].item() == float("inf")


# Storage


def test_states_and_head_take_width_over_vocabulary_of_the_space(
    folder: Path, tmp_path: Path
) -> None:
    """64 of 2,112 numbers per token: a 33rd, and the head once."""
    write_checkpoint(tmp_path / "wide", vocab_size=2112)
    reference = keep(load(tmp_path / "wide"), folder)
    tokens, stored = (reference.values[name].value for name in ("tokens", "stored_bytes"))
    assert tokens is not None
    assert stored is not None
    head = 2112 * 64 * 4
    assert (stored - head) / (tokens * 2112 * 4) == pytest.approx(1 / 33, rel=0.01)


def test_bf16_states_take_half_the_space(model: Engine, folder: Path) -> None:
    full, half = (
        keep(cell, folder).values["stored_bytes"].value
        for cell in (model, load(folder / "model", "bf16"))
    )
    assert full is not None
    assert half is not None
    assert half / full == pytest.approx(0.5, rel=0.01)


def test_the_same_reference_is_kept_once(model: Engine, folder: Path, own_cache: Path) -> None:
    first, second = (keep(model, folder).items["distribution"] for _ in range(2))
    assert first == second
    assert [path.name for path in (own_cache / "distributions").iterdir()] == [first]
    third = keep(model, folder, context=32).items["distribution"]
    assert third[:32] != first[:32]


def test_a_candidate_in_tf32_does_not_round_the_reference(
    model: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = keep(model, folder)
    modes: set[str] = set()
    linear = torch.nn.functional.linear

    def spy(*arguments: Any) -> torch.Tensor:
        modes.add(torch.get_float32_matmul_precision())
        return linear(*arguments)

    torch.set_float32_matmul_precision("high")
    try:
        monkeypatch.setattr(torch.nn.functional, "linear", spy)
        run(model, folder, reference)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert modes == {"high", "highest"}


# Refusals


def test_another_tokenizer_is_refused(model: Engine, folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "bare")
    write_tokenizer(tmp_path / "bare", bos=False)
    bare = load(tmp_path / "bare", "bf16")
    shas = [str(cell.job.files.tokenizer_sha256)[:12] for cell in (bare, model)]
    with pytest.raises(InputError) as refused:
        run(bare, folder, keep(model, folder))
    text = str(refused.value)
    assert "text 'text.txt' has 300 tokens for m[bf16]" in text
    assert "301 other ones for the reference m[fp32]" in text
    assert all(sha in text for sha in shas)


def test_other_windows_than_the_references_are_refused(model: Engine, folder: Path) -> None:
    with pytest.raises(InputError, match=r"with another context than m\[fp32\]"):
        run(model, folder, keep(model, folder), context=32, stride=32)


def test_another_vocabulary_is_refused(model: Engine, folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "padded", vocab_size=320)
    with pytest.raises(
        InputError, match=r"m\[fp32\] has 320 logits per token, the reference .*264"
    ):
        run(load(tmp_path / "padded"), folder, keep(model, folder))


def test_a_text_that_changed_is_refused(model: Engine, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    reference = keep(model, tmp_path)
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "text.txt").write_text(TEXT + "More.")
    with pytest.raises(InputError, match=r"'text\.txt' has changed since m\[fp32\] was measured"):
        run(model, changed, reference)


def test_one_too_large_for_the_cache_is_refused_before_it_is_computed(
    model: Engine, folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", "100kB")
    done: list[int] = []
    context = dataclasses.replace(
        make_context(folder), progress=lambda number, *_: done.append(number)
    )
    with pytest.raises(
        InputError,
        match=r"distribution over 300 tokens of 'text\.txt' takes 141 KiB, the cache may hold "
        r"97\.7 KiB: score fewer tokens \(`limit:`\) or a shorter text, or set "
        r"PRECISION_HARNESS_CACHE_LIMIT=1GiB",
    ):
        measure(model, Options(text=DataSource(path="text.txt"), context=64), context)
    assert done == []
    assert list(own_cache.glob("distributions/*")) == []


# Numbers that are not finite


def spoil(cell: Engine, value: float) -> Engine:
    with torch.no_grad():
        cell.model.lm_head.weight[7] = value
    return cell


def test_a_candidate_without_finite_numbers_is_invalid(model: Engine, folder: Path) -> None:
    measured = run(spoil(load(folder / "model"), float("nan")), folder, keep(model, folder))
    assert measured.validity.status == "invalid"
    assert measured.validity.reasons == ("300 of 300 tokens have a NaN or infinite divergence",)
    found = numbers(measured)
    assert found["nonfinite_tokens"] == found["tokens"] == 300
    assert found["kl_mean"] is None


def test_a_reference_without_finite_states_is_invalid_and_not_kept(
    folder: Path, own_cache: Path
) -> None:
    cell = load(folder / "model")
    with torch.no_grad():
        cell.model.model.norm.weight[3] = float("inf")
    measured = run(cell, folder)
    assert measured.validity.status == "invalid"
    assert measured.values["nonfinite_tokens"].value == 300
    assert list((own_cache / "distributions").iterdir()) == []
    assert not is_intact(make_record("divergence", measured=measured))


# Values


def test_every_value_is_declared(model: Engine, other: Engine, folder: Path) -> None:
    reference = keep(model, folder, context=32)
    measured = run(other, folder, reference, context=32)
    names = {name.partition("[")[0] for name in (*measured.values, *reference.values)}
    assert names == set(METRIC.values) - {"kl_increase", "top1_decrease"}  # between runs
    ours = make_record("divergence", measured=measured)
    assert compare(ours, reference) == {}
    between = compare(ours, ours)["kl_increase"]
    assert (between.value, between.bounds) == (0.0, (0.0, 0.0))
    assert measured.protocol == reference.protocol


# In a suite


SUITE = """name: s
reference: fp32
models: [{name: m, source: ../model}]
precisions: [fp32, bf16]
measure:
  divergence: {text: ../text.txt, context: 32}
limits:
  - {precision: bf16, metric: divergence.kl_mean, max: 0.000001}
  - {precision: bf16, metric: "divergence.top1_agreement[q4]", max: 0.5}
"""


def test_limits_may_bound_a_mean_or_its_quarter(
    model: Engine, other: Engine, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(folder / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    path = tmp_path / "suites" / "s.yaml"
    path.parent.mkdir()
    path.write_text(SUITE)
    suite = load_suite(path)
    reference = keep(model, folder, context=32)
    measured = run(other, folder, reference, context=32)
    candidate = make_record("divergence", "bf16", measured=measured)
    first, second = complete_record(suite, candidate, reference).verdicts
    assert (first.verdict, second.verdict) == ("FAIL", "PASS"), second.text
    assert "divergence.kl_mean is " in first.text
    path.write_text(SUITE.replace("q4", "q5"))
    with pytest.raises(ValueError, match=r"unknown quarter of divergence.top1_agreement 'q5'"):
        load_suite(path)


@pytest.mark.e2e
def test_a_reference_whose_distribution_is_damaged_is_measured_again(
    folder: Path, tmp_path: Path
) -> None:
    """Two runs of two processes each; in between the stored distribution is damaged."""
    project = Project(tmp_path)
    (tmp_path / "model").symlink_to(folder / "model")
    project.write("suites/s.yaml", SUITE.replace("0.000001", "9").replace("max: 0.5", "max: 2"))

    def run_candidate() -> dict[str, Record]:
        outcome = project.run("suites", "--precision", "bf16", "--results", "out")
        assert outcome.code == 0, outcome.text
        (path,) = (tmp_path / "out").rglob("*.json")
        records = find_records(read_run(path))
        path.unlink()
        return records

    first = run_candidate()
    (kept,) = (tmp_path / "harness-cache" / "distributions").iterdir()
    assert first["m[fp32]::divergence"].items["distribution"] == kept.name
    chunk = kept / "rows.safetensors"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    again = run_candidate()
    assert again["m[fp32]::divergence"].reused_from is None
    name = "m[bf16]::divergence"
    assert again[name].values == first[name].values
    assert is_intact_in(tmp_path / "harness-cache", again["m[fp32]::divergence"])


def is_intact_in(cache: Path, record: Record) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRECISION_HARNESS_CACHE", str(cache))
        return is_intact(record)
