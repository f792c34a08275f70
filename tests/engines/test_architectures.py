"""attest: no right label is refused, whatever the architecture; tiny models of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
)

from harness.errors import InputError
from tests.support.cells_in_process import load, replace_in_precision, write_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("attest") / "model")


ARCHITECTURES = {
    "llama": {"model_type": "llama", "num_key_value_heads": 2},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2"},
    "opt": {"model_type": "opt", "ffn_dim": 128, "word_embed_proj_dim": 64},
    "gpt_neox": {"model_type": "gpt_neox"},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 2, "num_key_value_heads": 2},
    # These hold some weights in float32 whatever they are loaded in.
    "rwkv": {"model_type": "rwkv", "attention_hidden_size": 64, "context_length": 64},
    "ernie4_5_moe": {"model_type": "ernie4_5_moe", "moe_num_experts": 2, "moe_k": 1},
}
FLOATS: list[tuple[str, dict[str, Any]]] = [("fp32", {}), ("bf16", {}), ("fp16", {})]
QUANTISED: list[tuple[str, dict[str, Any]]] = [
    ("int8", {"compute_dtype": "float32"}),
    ("int8", {"compute_dtype": "float16"}),
    ("nf4", {"compute_dtype": "bfloat16"}),
    ("fp4", {"compute_dtype": "float16", "double_quant": True}),
]


@pytest.fixture(scope="module")
def of_each_architecture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of two layers, 64 wide, with weights of unit variance at most."""
    shape = {
        **{"vocab_size": 99, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0},
        **{"bos_token_id": 1, "eos_token_id": 2},
    }
    found = {}
    for name, own in ARCHITECTURES.items():
        fields = {**shape, **own}
        torch.manual_seed(0)
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        found[name] = tmp_path_factory.mktemp("architectures") / name
        AutoModelForCausalLM.from_config(config).save_pretrained(found[name])
    return found


@pytest.mark.parametrize(
    "name",
    [n if n == "tied" else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES],
)
def test_no_right_label_is_refused(of_each_architecture: dict[str, Path], name: str) -> None:
    """Neither biases, transposed layers, tied heads nor what an architecture keeps in float32."""
    experts = name in ("mixtral", "ernie4_5_moe")  # which bitsandbytes cannot quantise
    for precision, given in FLOATS + ([] if experts else QUANTISED):
        cell = load(of_each_architecture[name], precision, **given)
        assert cell.counts.allocated_bytes == cell.counts.total_bytes
        assert cell.attested.get("skipped_linears", []) == []
        assert cell.flags == ()


@pytest.mark.parametrize(
    ("name", "precision", "kept"),
    [
        ("rwkv", "fp16", ["rwkv.blocks.*.attention.time_decay", "rwkv.blocks.*.attention.time_fi"]),
        ("rwkv", "bf16", []),  # kept from float16 only
        ("ernie4_5_moe", "bf16", ["model.layers.*.mlp.gate.weight", "model.layers.*.mlp.gate.moe"]),
    ],
)
def test_what_an_architecture_keeps_in_float32_is_stated(
    of_each_architecture: dict[str, Path], name: str, precision: str, kept: list[str]
) -> None:
    attested = load(of_each_architecture[name], precision).attested
    found = attested["kept_by_architecture"].get("float32", [])
    assert len(found) == len(kept)
    assert all(one.startswith(start) for one, start in zip(found, kept, strict=True))
    assert len(attested["dtypes"]) == 1


def test_a_float32_tensor_that_no_architecture_asks_for_is_refused_next_to_one_that_it_keeps(
    of_each_architecture: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def enlarge(model: Any, *_: Any) -> None:
        model.rwkv.blocks[0].ln1.float()

    replace_in_precision(monkeypatch, "fp16", prepare=enlarge)
    with pytest.raises(InputError, match=r"but 2 tensors hold float32, such as rwkv.blocks.*ln1"):
        load(of_each_architecture["rwkv"], "fp16")
