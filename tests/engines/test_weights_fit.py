"""Weights that cannot fit are refused before they are read; whatever may fit is let through."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.engines.transformers import weights_fit
from harness.engines.transformers.checkpoint import read_checkpoint
from harness.engines.transformers.loading import load_cell
from harness.engines.transformers.weights_fit import check_weights_fit
from harness.errors import UnavailableError
from harness.suite.model_sources import CellJob
from harness.worker.serve import guard
from tests.support.cells_in_process import load, make_job, write_checkpoint

LLAMA_70B = LlamaConfig(
    vocab_size=128256,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fit") / "small")


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 70B checkpoint in bfloat16: its config, and a header before 141 GB that are not there."""
    folder = tmp_path_factory.mktemp("fit") / "huge"
    LLAMA_70B.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LLAMA_70B)
    header: dict[str, Any] = {}
    end = 0
    for name, parameter in model.named_parameters():
        start, end = end, end + 2 * parameter.numel()
        shape = list(parameter.shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def job_of(huge: Path, small: Path, precision: str, device: str = "cuda:0") -> CellJob:
    """The job of the 70B model with the small one's tokenizer; hashing it would take minutes."""
    job = make_job(small, precision, device=device)
    return replace(job, files=replace(job.files, folder=str(huge)))


def set_free(patch: pytest.MonkeyPatch, size: float) -> None:
    patch.setattr(weights_fit, "free_bytes", lambda device: int(size))


@pytest.mark.parametrize(
    ("precision", "dtype", "needed"),
    [
        ("bf16", "bfloat16", "141 GB"),
        ("fp32", "float32", "282 GB"),
        ("int8", "bfloat16", None),  # 72.7 GB
        ("nf4", "bfloat16", None),  # 42.7 GB
    ],
)
def test_a_70b_model_on_a_board_of_80_gb(
    huge: Path,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    dtype: str,
    needed: str | None,
) -> None:
    set_free(monkeypatch, 79e9)
    job = job_of(huge, small, precision)
    checkpoint = read_checkpoint(str(huge))
    if needed is None:
        check_weights_fit(job, str(huge), checkpoint, dtype)
        return
    with pytest.raises(UnavailableError) as caught:
        check_weights_fit(job, str(huge), checkpoint, dtype)
    assert str(caught.value) == (
        f"m as {precision} needs about {needed} for its weights, 79 GB free on cuda:0"
    )


def test_a_cell_is_skipped_before_its_weights_are_read(
    huge: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 examines every weight of a bfloat16 checkpoint, but for that it is too late."""
    set_free(monkeypatch, 16e9)
    monkeypatch.setattr("psutil.swap_memory", lambda: type("Swap", (), {"free": 0}))
    monkeypatch.setattr("harness.engines.transformers.fp16_damage.safe_open", None)
    failure = guard(lambda: load_cell(job_of(huge, small, "fp16", "cpu")))
    assert failure.status == "skipped"
    assert failure.reason == "m as fp16 needs about 141 GB for its weights, 16 GB free on cpu"


def test_a_head_that_is_stored_and_tied_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    path = folder / "model.safetensors"
    weights = load_file(path)
    needed = 4 * sum(tensor.numel() for tensor in weights.values())
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, path, metadata={"format": "pt"})
    monkeypatch.setattr("psutil.swap_memory", lambda: type("Swap", (), {"free": 0}))
    set_free(monkeypatch, needed)
    assert load(folder).attested["tied_head"] is True
    set_free(monkeypatch, needed - 1)
    with pytest.raises(UnavailableError, match=r"^m as fp32 needs about .* for its weights"):
        load(folder)


def test_where_the_free_memory_is_unknown_nothing_is_refused(
    huge: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_fit, "free_bytes", lambda device: None)
    job = job_of(huge, small, "bf16")
    check_weights_fit(job, str(huge), read_checkpoint(str(huge)), "bfloat16")


def test_what_may_swap_is_not_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 1)
    monkeypatch.setattr("psutil.swap_memory", lambda: type("Swap", (), {"free": 1 << 30}))
    assert load(small).counts.parameters > 0
