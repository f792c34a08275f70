"""Windows are scored in slices of logits, and as the model itself computes its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from harness.engines.base import Engine
from tests.support.cells_in_process import SHAPE, load, write_checkpoint, write_tokenizer

ROWS = torch.arange(3, 3 + 4 * 31).reshape(4, 31)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("windows") / "model")


def score_whole(engine: Any, rows: torch.Tensor, scored: int) -> torch.Tensor:
    """NLL from the model's own logits of one row after another."""
    found = []
    for row in rows:
        with torch.no_grad():
            logits = engine.model(row[None]).logits[0].float()
        log_p = torch.log_softmax(logits, -1)[torch.arange(len(row) - 1), row[1:]]
        found.append(-log_p[-scored:].double())
    return torch.stack(found)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plain_model_is_scored_from_its_hidden_states(folder: Path, precision: str) -> None:
    engine = load(folder, precision)
    found = engine.score_windows(ROWS, 20)
    assert found.slow_because is None
    # In 16 bits a row by itself and one of several are rounded differently.
    tolerance = 1e-6 if precision == "fp32" else 2e-2
    torch.testing.assert_close(found.nll, score_whole(engine, ROWS, 20), rtol=tolerance, atol=1e-6)


def test_logits_exist_a_bounded_slice_at_a_time(tmp_path: Path) -> None:
    """60,000 token ids: a float32 slice of at most 32 MiB has 139 positions."""
    folder = write_checkpoint(tmp_path / "wide", vocab_size=60_000, hidden_size=16)
    engine: Any = load(folder)
    sizes: list[int] = []
    head = engine.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _module, _given, out: sizes.append(out.nbytes))
    rows = torch.arange(4 * 101).reshape(4, 101)
    found = engine.score_windows(rows, 100)
    hook.remove()
    assert max(sizes) <= 32 << 20
    assert sum(sizes) >= 400 * 60_000 * 4
    torch.testing.assert_close(found.nll, score_whole(engine, rows, 100), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_soft_cap_is_found_and_the_models_own_logits_are_scored(
    tmp_path: Path, precision: str
) -> None:
    """A Gemma 2 with a soft cap that its logits, of size 1, hardly feel."""
    torch.manual_seed(0)
    shape = {**SHAPE, "head_dim": 16, "sliding_window": 64, "initializer_range": 0.15}
    config = Gemma2Config(**shape, final_logit_softcapping=30.0, pad_token_id=0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    engine = load(tmp_path, precision)
    found = engine.score_windows(ROWS, 30)
    assert "changes its logits behind its output head" in (found.slow_because or "")
    torch.testing.assert_close(found.nll, score_whole(engine, ROWS, 30), rtol=1e-6, atol=1e-6)


def test_a_model_without_a_head_of_its_own_is_scored_whole(folder: Path) -> None:
    wanted = load(folder).score_windows(ROWS, 20)
    engine: Engine = load(folder)
    engine.model.get_output_embeddings = lambda: None  # type: ignore[attr-defined]
    found = engine.score_windows(ROWS, 20)
    assert "the model names no output head" in (found.slow_because or "")
    torch.testing.assert_close(found.nll, wanted.nll, rtol=1e-6, atol=1e-6)
