"""The output head's input is caught and replayed; a model for which that is not enough is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from harness.engines.transformers.forward import slice_rows
from harness.engines.transformers.head import head_of, read_hidden, replay_error
from tests.support.cells_in_process import SHAPE


def make(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config: Any = GPT2Config(
            vocab_size=264, n_positions=64, n_embd=32, n_layer=2, n_head=4,
            initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return GPT2LMHeadModel(config).eval()
    if kind == "gemma2":
        shape = {**SHAPE, "head_dim": 16}
        config = Gemma2Config(**shape, final_logit_softcapping=2.0, initializer_range=0.3)
        return Gemma2ForCausalLM(config).eval()
    return LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.15)).eval()


IDS = torch.randint(3, 264, (3, 20), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.tensor([4, 5, 11, 18])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_head_on_what_was_caught_gives_the_models_logits(kind: str) -> None:
    model = make(kind)
    hidden = read_hidden(model, IDS, POSITIONS)
    assert hidden is not None
    with torch.inference_mode():
        expected = model(input_ids=IDS).logits
        replayed = head_of(model)(hidden.states)
    torch.testing.assert_close(replayed, expected[:, POSITIONS], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden.live, expected[:, 18], atol=1e-5, rtol=1e-5)
    assert replay_error(model, hidden) < 1e-5


def test_the_head_itself_runs_on_one_position() -> None:
    model, shapes = make("llama"), []
    head_of(model).register_forward_hook(lambda module, given, out: shapes.append(out.shape))
    read_hidden(model, IDS, POSITIONS)
    assert shapes == [(3, 1, 264)]


def test_soft_capping_behind_the_head_shows() -> None:
    model = make("gemma2")
    hidden = read_hidden(model, IDS, POSITIONS)
    assert hidden is not None
    assert replay_error(model, hidden) > 0.1


def test_a_model_without_logits_to_keep_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    expected = read_hidden(model, IDS, POSITIONS)
    whole = type(model).forward

    def forward(self: Any, input_ids: Any = None, use_cache: Any = None) -> Any:
        return whole(self, input_ids=input_ids, use_cache=use_cache)

    monkeypatch.setattr(type(model), "forward", forward)
    hidden = read_hidden(model, IDS, POSITIONS)
    assert hidden is not None
    assert expected is not None
    torch.testing.assert_close(hidden.states, expected.states)
    assert replay_error(model, hidden) < 1e-5


def test_a_model_without_a_head_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    assert read_hidden(model, IDS, POSITIONS) is None


@pytest.mark.parametrize(("device", "held"), [("cpu", 30 << 20), ("cuda", 256 << 20)])
def test_slices_hold_as_many_rows_as_fit(device: str, held: int) -> None:
    vocabulary = held // (4 * 3)  # three rows of float32
    on = torch.device(device)
    assert list(slice_rows(7, vocabulary, on)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(slice_rows(2, 100 * vocabulary, on)) == [slice(0, 1), slice(1, 2)]
    assert list(slice_rows(3, vocabulary, on)) == [slice(0, 3)]
