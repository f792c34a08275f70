"""The cache's bytes by formula are those of the cache that a real model builds, or unknown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

from harness.engines.transformers.kv_cache import cache_bytes, kv_bytes_per_token

BATCH, PROMPT, MORE = 2, 6, 3
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
GROUPED = {**SHAPE, "num_key_value_heads": 2}


def make(architecture: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **fields)).eval()


def read(model: Any, tokens: int, cache: Any = None) -> Any:
    ids = torch.full((BATCH, tokens), 5)
    with torch.inference_mode():
        return model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values


@pytest.mark.parametrize(
    ("architecture", "fields", "expected"),
    [  # layers * (keys and values) * heads * width * 4 bytes
        ("llama", SHAPE, 3 * 2 * 4 * 8 * 4),
        ("llama", GROUPED, 3 * 2 * 2 * 8 * 4),
        ("llama", {**SHAPE, "num_key_value_heads": 1}, 3 * 2 * 1 * 8 * 4),
        ("qwen3", {**GROUPED, "head_dim": 16}, 3 * 2 * 2 * 16 * 4),
        ("gemma", {**GROUPED, "head_dim": 24}, 3 * 2 * 2 * 24 * 4),
        ("mistral", {**GROUPED, "sliding_window": None}, 3 * 2 * 2 * 8 * 4),
        ("qwen2", {**GROUPED, "sliding_window": 4, "use_sliding_window": False}, 3 * 2 * 2 * 8 * 4),
        ("gpt2", GPT, 3 * 2 * 4 * 8 * 4),
        ("gptj", {**GPT, "rotary_dim": 4}, 3 * 2 * 4 * 8 * 4),
        ("gpt_neox", SHAPE, 3 * 2 * 4 * 8 * 4),
        ("opt", {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32}, 3 * 2 * 4 * 8 * 4),
        ("bloom", {"vocab_size": 96, "hidden_size": 32, "n_layer": 3, "n_head": 4}, 768),
        ("mpt", {"vocab_size": 96, "d_model": 32, "n_layers": 3, "n_heads": 4}, 768),
        ("gpt_bigcode", GPT, 3 * 2 * 1 * 8 * 4),
        ("gpt_bigcode", {**GPT, "multi_query": False}, 3 * 2 * 4 * 8 * 4),
        ("falcon", SHAPE, 3 * 2 * 1 * 8 * 4),
        ("falcon", {**SHAPE, "multi_query": False}, 3 * 2 * 4 * 8 * 4),
        ("falcon", {**SHAPE, "new_decoder_architecture": True, "num_kv_heads": 2}, 768),
    ],
)
def test_the_formula_is_what_the_model_caches(
    architecture: str, fields: dict[str, Any], expected: int
) -> None:
    model = make(architecture, **fields)
    cache = read(model, PROMPT)
    assert cache_bytes(cache) == expected * BATCH * PROMPT
    cache = read(model, MORE, cache)
    assert cache_bytes(cache) == expected * BATCH * (PROMPT + MORE)
    assert kv_bytes_per_token(model.config, 4) == expected
    assert kv_bytes_per_token(model.config, 2) == expected // 2


def test_the_text_part_of_a_config_counts() -> None:
    config = AutoConfig.for_model("llava", text_config={"model_type": "llama", **GROUPED})
    assert kv_bytes_per_token(config, 4) == 3 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("mistral", {**GROUPED, "sliding_window": 4}),
        ("gemma2", {**GROUPED, "head_dim": 8}),
        ("gpt_oss", GROUPED),
        ("deepseek_v3", SHAPE),
        ("mamba", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3}),
        ("falcon_h1", GROUPED),
        ("t5", {}),
    ],
)
def test_what_caches_otherwise_is_unknown(architecture: str, fields: dict[str, Any]) -> None:
    assert kv_bytes_per_token(AutoConfig.for_model(architecture, **fields), 2) is None


def test_a_sliding_window_is_measured_as_it_is_held() -> None:
    """After a step that lets go of the oldest, the window less one and what the view keeps."""
    model = make("mistral", **GROUPED, sliding_window=4)
    per_token = 3 * 2 * 2 * 8 * 4
    cache = read(model, 1, read(model, 1, read(model, PROMPT)))
    assert cache_bytes(cache) == per_token * BATCH * 4


def test_a_static_cache_holds_its_whole_length_from_the_start() -> None:
    model = make("llama", **GROUPED)
    cache = StaticCache(config=model.config, max_cache_len=40)
    assert cache_bytes(cache) == 0
    read(model, PROMPT, cache)
    assert cache_bytes(cache) == 3 * 2 * 2 * 8 * 4 * BATCH * 40
