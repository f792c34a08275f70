"""Random checkpoints: the same for the same seed, made once, loaded like any other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import harness.engines.transformers.random_weights
from harness.engines.transformers.loading import load_cell
from harness.engines.transformers.random_weights import make_random_checkpoint
from harness.errors import InputError
from harness.suite.models import Architecture
from tests.support.cells_in_process import SHAPE, load, make_job

LLAMA = {"architecture": "llama", **SHAPE, "tie_word_embeddings": True}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """And a block of random numbers that is small, so that weights are longer than it."""
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(harness.engines.transformers.random_weights, "_BLOCK", 5000)
    return tmp_path / "cache"


def make(seed: int = 0, **changes: Any) -> Path:
    return Path(make_random_checkpoint(Architecture(**{**LLAMA, **changes}), seed))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_same_seed_gives_the_same_weights_and_another_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = weights(make(0)), weights(make(1))
    assert not same(one, other)
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "elsewhere"))
    assert same(weights(make(0)), one)


def test_weights_are_normal_in_bfloat16_and_norms_are_one() -> None:
    found = weights(make(initializer_range=0.1))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    embedding = found["model.embed_tokens.weight"].float()
    assert float(embedding.std()) == pytest.approx(0.1, rel=0.05)
    assert float(embedding.mean()) == pytest.approx(0, abs=0.01)
    assert torch.equal(found["model.norm.weight"], torch.ones(64, dtype=torch.bfloat16))


def test_a_checkpoint_is_written_once_per_architecture_and_seed(cache: Path) -> None:
    first = make()
    before = os.stat(first / "model.safetensors").st_mtime_ns
    assert make() == first
    assert os.stat(first / "model.safetensors").st_mtime_ns == before
    assert len({first, make(1), make(hidden_size=128)}) == 3
    assert len(list((cache / "random").iterdir())) == 3


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_it_loads_like_any_other(precision: str) -> None:
    source = Architecture(**LLAMA).model_dump()
    cell = load(source, precision, weights="random")
    assert cell.attested["quantisation"] == (None if precision == "fp32" else "nf4")
    assert cell.attested["tied_head"] is True
    with torch.no_grad():
        logits = cell.model(torch.tensor([[5, 6, 7]])).logits
    assert logits.isfinite().all()


def test_seeds_and_sizes_are_distinguished_before_anything_is_made(cache: Path) -> None:
    source = Architecture(**LLAMA).model_dump()
    jobs = [
        make_job(source, weights="random"),
        make_job(source, weights="random", seed=1),
        make_job({**source, "hidden_size": 128}, weights="random"),
    ]
    assert len({job.files.weights_sha256 for job in jobs}) == 3
    assert make_job(source, weights="random").files == jobs[0].files
    assert not cache.exists()


def test_making_it_is_no_part_of_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak of loading would else depend on whether the checkpoint was there already."""
    order: list[str] = []
    real = harness.engines.transformers.random_weights.make_random_checkpoint
    meter = harness.engines.transformers.loading.MemoryMeter

    def make_first(*given: Any) -> str:
        order.append("make")
        return real(*given)

    def measure(*given: Any) -> Any:
        order.append("meter")
        return meter(*given)

    monkeypatch.setattr(harness.engines.transformers.loading, "make_random_checkpoint", make_first)
    monkeypatch.setattr(harness.engines.transformers.loading, "MemoryMeter", measure)
    load_cell(make_job(Architecture(**LLAMA).model_dump(), weights="random"))
    assert order == ["make", "meter"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "lama"}, "cannot build this architecture: .*lama"),
        ({"hidden_size": 65}, "cannot build this architecture: .*multiple of the number of att"),
        ({"hidden_act": "nonsense"}, "cannot build this architecture: .*nonsense"),
    ],
)
def test_what_cannot_be_built_is_refused_and_leaves_nothing(
    cache: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(**changes)
    assert list((cache / "random").iterdir()) == []
