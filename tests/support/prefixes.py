"""Small models that share prefixes each in its own way, prompts that do, and the plain answer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from harness.engines.base import Cost, Target
from harness.engines.shared.batches import BatchSize
from harness.engines.transformers.prefix_scoring import predict_tokens
from tests.support.cells_in_process import SHAPE, write_llama

VOCABULARY = 264


def make_gpt2() -> Any:
    """Absolute positions: a padded row must not reach beyond the last of them."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=40,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).eval()


def make_mistral(window: int | None) -> Any:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.2,
    )
    return MistralForCausalLM(config).eval()


def make_mamba() -> Any:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    return MambaForCausalLM(config).eval()


def make_gpt_neo() -> Any:
    """Its local attention counts the cache's columns, whatever the positions say."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=12,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPTNeoForCausalLM(config).eval()


def make_mpt() -> Any:
    """ALiBi: no positions at all, but a bias by the cache's columns."""
    torch.manual_seed(0)
    config = MptConfig(
        vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=128,
        initializer_range=0.2,
    )  # fmt: skip
    return MptForCausalLM(config).eval()


def make_bart() -> Any:
    """Ignores the positions it is given and starts its own at 2."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=32, decoder_layers=2, decoder_attention_heads=4,
        decoder_ffn_dim=64, max_position_embeddings=128, init_std=0.2, is_decoder=True,
        is_encoder_decoder=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return BartForCausalLM(config).eval()


def make_longrope() -> Any:
    """Other rotation factors as soon as any row of a pass is longer than 30 tokens."""
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 30,
    }
    config = LlamaConfig(
        **{**SHAPE, "hidden_size": 32, "max_position_embeddings": 120},
        rope_parameters=rope,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def make_rows(seed: int = 0, longest: int = 60) -> list[tuple[int, ...]]:
    """Examples shared by all, questions shared by some, endings of many lengths."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(3, VOCABULARY), k=rng.randint(low, high)))

    rows = set()
    for _ in range(2):
        examples = tokens(15, 25)
        for _ in range(6):
            question = examples + tokens(1, 15)
            rows |= {(question + tokens(0, 12))[:longest] for _ in range(4)}
    return sorted(rows, key=lambda row: rng.random())


def make_targets(rows: list[tuple[int, ...]]) -> list[Target]:
    """The last three positions of every row, each wanting a token of its own."""
    return [
        Target(row, position, (7 * row + position) % VOCABULARY, (row, position))
        for row, tokens in enumerate(rows)
        for position in range(max(0, len(tokens) - 3), len(tokens))
    ]


def predict(model: Any, rows: list[tuple[int, ...]], batch_tokens: int) -> tuple[Any, Cost]:
    found: dict[Any, tuple[float, bool]] = {}

    def take(key: Any, nll: float, likeliest: bool) -> None:
        assert key not in found
        found[key] = nll, likeliest

    cost = predict_tokens(model, "cpu", rows, make_targets(rows), take, BatchSize(batch_tokens))
    return found, cost


def predict_alone(model: Any, rows: list[tuple[int, ...]]) -> dict[Any, tuple[float, bool]]:
    found = {}
    for target in make_targets(rows):
        with torch.no_grad():
            logits = model(torch.tensor([rows[target.row]])).logits[0, target.position].double()
        nll = -float(torch.log_softmax(logits, -1)[target.token])
        found[target.key] = nll, int(logits.argmax()) == target.token
    return found


def check_equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key, (nll, likeliest) in expected.items():
        assert found[key][0] == pytest.approx(nll, abs=2e-5)
        assert found[key][1] is likeliest


def read_llama(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(write_llama(folder)).eval()
