"""attest: what was really loaded, and that a wrong label is refused; real bitsandbytes layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes.functional
import pytest
import torch
from cells_in_process import load, write_llama
from transformers import (
    BitsAndBytesConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

import harness.models.attest as attest_module
import harness.models.load
from harness.catalog import load_precision
from harness.errors import InputError
from harness.models.attest import attest
from harness.models.load import LoadedCell


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("attest") / "model")


@pytest.mark.parametrize(
    ("precision", "given", "expected"),
    [
        ("fp32", {}, {"quantisation": None, "linear_dtypes": {"float32": 15}}),
        ("bf16", {}, {"quantisation": None, "linear_dtypes": {"bfloat16": 15}}),
        ("fp16", {}, {"quantisation": None, "linear_dtypes": {"float16": 15}}),
        (
            "int8",
            {"threshold": 4.5},
            {
                "quantisation": "int8",
                "linear_dtypes": {"float32": 1, "int8": 14},
                "threshold": 4.5,
                "unquantised": ["lm_head"],
            },
        ),
        (
            "nf4",
            {"compute_dtype": "bfloat16"},
            {
                "quantisation": "nf4",
                "linear_dtypes": {"bfloat16": 1, "uint8": 14},
                "double_quant": False,
                "block_size": 64,
                "compute_dtype": "bfloat16",
                "unquantised": ["lm_head"],
            },
        ),
        ("fp4", {"double_quant": True}, {"quantisation": "fp4", "double_quant": True}),
    ],
)
def test_what_is_loaded_is_stated(
    checkpoint: Path, precision: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    attested = load(checkpoint, precision, **given).attested
    assert attested | expected == attested
    assert attested["tied_head"] is False
    assert attested["tf32"] is False
    assert attested["attention"] == "sdpa"


def test_a_tied_head_is_stated(tmp_path: Path) -> None:
    cell = load(write_llama(tmp_path / "tied", tie_word_embeddings=True))
    assert cell.attested["tied_head"] is True


def test_layers_that_disagree_are_stated_one_by_one(checkpoint: Path) -> None:
    model = load(checkpoint, "nf4").model
    layers = model.model.layers
    layers[0].self_attn.q_proj.compute_dtype = torch.float16
    assert attest(model)["compute_dtype"] == ["float16", "float32"]
    layers[1].mlp = load(checkpoint, "fp4").model.model.layers[1].mlp
    assert attest(model)["quantisation"] == "mixed"


def quantised(**config: Any) -> dict[str, Any]:
    return {"dtype": torch.float32, "quantization_config": BitsAndBytesConfig(**config)}


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
MISLABELLED = {
    "4 bits by default are fp4": (
        *("nf4", {}, quantised(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)),
        "declared nf4, loaded as fp4",
    ),
    "nf4 as fp4": ("fp4", {}, quantised(**NF4), "declared fp4, loaded as nf4"),
    "no double quantisation": (
        *("nf4", {"double_quant": True}, quantised(**NF4)),
        "declared double_quant True, loaded with False",
    ),
    "double quantisation": (
        *("nf4", {}, quantised(**NF4, bnb_4bit_use_double_quant=True)),
        "declared double_quant False, loaded with True",
    ),
    "compute dtype": (
        *("nf4", {"compute_dtype": "bfloat16"}, quantised(**NF4)),
        "declared compute_dtype bfloat16, loaded with float32",
    ),
    "ignored quantisation": (
        *("nf4", {}, {"dtype": torch.float32}),
        "declared nf4, loaded as unquantised",
    ),
    "ignored int8": ("int8", {}, {"dtype": torch.float32}, "declared int8, loaded as unquantised"),
    "nf4 as int8": ("int8", {}, quantised(**NF4), "declared int8, loaded as nf4"),
    "threshold": (
        *("int8", {}, quantised(load_in_8bit=True, llm_int8_threshold=0.0)),
        "declared outlier threshold 6.0, loaded with 0.0",
    ),
    "fp16 as bf16": (
        *("bf16", {}, {"dtype": torch.float16}),
        "declared bfloat16, but linear layers hold float16",
    ),
    "bf16 as fp32": (
        *("fp32", {}, {"dtype": torch.bfloat16}),
        "declared float32, but linear layers hold bfloat16",
    ),
    "int8 as fp32": (
        *("fp32", {}, quantised(load_in_8bit=True)),
        "declared unquantised, loaded as int8; declared float32, but linear layers hold int8",
    ),
}


@pytest.mark.parametrize(
    ("precision", "given", "arguments", "reason"), MISLABELLED.values(), ids=MISLABELLED
)
def test_a_wrong_label_is_refused(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    given: dict[str, Any],
    arguments: dict[str, Any],
    reason: str,
) -> None:
    """The precision's own arguments are replaced by others, as a bug or a new library would."""
    load(checkpoint, precision, **given)
    monkeypatch.setattr(load_precision(precision), "load_arguments", lambda *_: arguments)
    with pytest.raises(InputError) as caught:
        load(checkpoint, precision, **given)
    assert str(caught.value).startswith(f"m declared as {precision} was loaded as something else: ")
    assert reason in str(caught.value)


def test_tf32_left_on_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(
        harness.models.load, "_set_tf32", lambda on: torch.set_float32_matmul_precision("high")
    )
    try:
        with pytest.raises(InputError, match="declared TF32 off, in force it is on"):
            load(checkpoint, "fp32")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("inherited", ["high", "medium", "highest"])
def test_loading_sets_tf32_whatever_was_set_before(checkpoint: Path, inherited: str) -> None:
    torch.set_float32_matmul_precision(inherited)
    assert load(checkpoint, "fp32").attested["tf32"] is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_tf32_is_attested_where_it_is_declared(checkpoint: Path) -> None:
    try:
        assert load(checkpoint, "tf32").attested["tf32"] is True
    finally:
        torch.set_float32_matmul_precision("highest")


# 4 bits on a CPU: bitsandbytes may not repack what it computes with


def four_bit_layers(cell: LoadedCell) -> list[Any]:
    return [m for m in cell.model.modules() if type(m).__name__ == "Linear4bit"]


def dequantised(cell: LoadedCell) -> LlamaForCausalLM:
    """The same model with plain layers that hold the values its packed ones stand for."""
    plain = LlamaForCausalLM(cell.model.config).eval()
    state = {
        name: bitsandbytes.functional.dequantize_4bit(tensor.data, tensor.quant_state)
        if hasattr(tensor, "quant_state")
        else tensor.data
        for name, tensor in cell.model.named_parameters()
    }
    del plain.config.quantization_config
    plain.load_state_dict(state)
    return plain


@pytest.mark.parametrize(
    ("precision", "given"), [("nf4", {}), ("nf4", {"double_quant": True}), ("fp4", {})]
)
def test_float32_products_use_the_weights_as_they_were_quantised(
    checkpoint: Path, precision: str, given: dict[str, Any]
) -> None:
    cell = load(checkpoint, precision, **given)
    layers = four_bit_layers(cell)
    assert len(layers) == 14
    before = [layer.weight.data.clone() for layer in layers]
    scales = [layer.weight.quant_state.absmax.clone() for layer in layers]
    ids = torch.randint(3, 264, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = dequantised(cell)(ids).logits
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(cell.model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    for layer, weight, scale in zip(layers, before, scales, strict=True):
        assert torch.equal(layer.weight.data, weight)
        assert torch.equal(layer.weight.quant_state.absmax, scale)
    assert attest(cell.model) == cell.attested


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("double_quant", [False, True])
def test_rows_that_are_no_multiple_of_32_work(
    tmp_path: Path, compute_dtype: str, double_quant: bool
) -> None:
    write_llama(tmp_path / "odd", hidden_size=40, intermediate_size=72)
    cell = load(tmp_path / "odd", "nf4", compute_dtype=compute_dtype, double_quant=double_quant)
    with torch.no_grad():
        logits = cell.model(torch.tensor([[5, 6, 7]])).logits
    assert logits.isfinite().all()
    assert not any(layer.support_avx512bf16_for_cpu for layer in four_bit_layers(cell))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"compute_dtype": "bfloat16"}, True),
        ({"compute_dtype": "bfloat16", "double_quant": True}, False),
        ({"compute_dtype": "float16"}, False),
        ({}, False),
    ],
)
def test_the_repacking_kernel_is_left_on_only_where_it_is_what_was_declared(
    checkpoint: Path, given: dict[str, Any], kept: bool
) -> None:
    """Where this CPU has no such kernel, it is never on."""
    available = bitsandbytes.nn.Linear4bit(64, 32).support_avx512bf16_for_cpu
    layers = four_bit_layers(load(checkpoint, "nf4", **given))
    assert {layer.support_avx512bf16_for_cpu for layer in layers} == {kept and available}


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_experts_that_no_layer_holds_are_not_passed_off_as_quantised(
    tmp_path: Path, precision: str
) -> None:
    """transformers 5 keeps a mixture's experts in one tensor, which bitsandbytes passes over."""
    config = MixtralConfig(
        vocab_size=99,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path / "mixture")
    load(tmp_path / "mixture", "fp32")
    with pytest.raises(InputError, match="of the weights were left unquantised"):
        load(tmp_path / "mixture", precision)


def test_tf32_is_not_attested_where_the_environment_forbids_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert attest_module._tf32_in_force()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert not attest_module._tf32_in_force()
