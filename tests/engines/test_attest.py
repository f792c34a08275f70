"""attest: what was really loaded, and that a wrong label is refused; real bitsandbytes layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from transformers import (
    LlamaForCausalLM,
)

from harness.engines.base import Engine
from harness.engines.transformers.attest import attest, tf32_in_force
from tests.support.cells_in_process import load, write_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("attest") / "model")


UNTIED = {"embedding": ["model.embed_tokens"], "output head": ["lm_head"]}


@pytest.mark.parametrize(
    ("precision", "given", "expected"),
    [
        ("fp32", {}, {"quantisation": None, "linear_dtypes": {"float32": 15}}),
        ("bf16", {}, {"linear_dtypes": {"bfloat16": 15}, "dtypes": {"bfloat16": 21}}),
        ("fp16", {}, {"quantisation": None, "linear_dtypes": {"float16": 15}}),
        (
            "int8",
            {"threshold": 4.5},
            {
                "quantisation": "int8",
                "linear_dtypes": {"float32": 1, "int8": 14},
                "quant_storage": "int8",
                "input_dtype": "float16",
                "product_dtype": "int8",
                "result_dtype": "float32",
                "threshold": 4.5,
                "unquantised": UNTIED,
                "skipped_linears": [],
            },
        ),
        (
            "nf4",
            {"compute_dtype": "bfloat16"},
            {
                "quantisation": "nf4",
                "linear_dtypes": {"bfloat16": 1, "uint8": 14},
                "dtypes": {"bfloat16": 7},
                "quant_storage": "uint8",
                "double_quant": False,
                "block_size": 64,
                "nested_block_size": None,
                "compute_dtype": "bfloat16",
                "unquantised": UNTIED,
                "output_head": "bfloat16",
            },
        ),
        (
            "fp4",
            {"double_quant": True},
            {"quantisation": "fp4", "double_quant": True, "nested_block_size": 256},
        ),
    ],
)
def test_what_is_loaded_is_stated(
    checkpoint: Path, precision: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    attested = load(checkpoint, precision, **given).attested
    assert attested | expected == attested
    assert attested["tied_head"] is False
    assert attested["tf32"] is False
    assert attested["tf32_switches"] == {
        "float32_matmul_precision": "highest",
        "cudnn_allow_tf32": False,
        "NVIDIA_TF32_OVERRIDE": None,
    }
    assert attested["attention"] == "sdpa"
    assert attested["checkpoint"]["dtypes"] == {"F32": 21}


def test_a_tied_head_is_stated(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "tied", tie_word_embeddings=True)
    assert load(folder).attested["tied_head"] is True
    assert load(folder, "nf4").attested["unquantised"] == {
        "embedding": ["model.embed_tokens"],
        "output head, tied to the embedding": ["lm_head"],
    }


@pytest.mark.parametrize(("precision", "operator"), [("nf4", "gemm_4bit"), ("int8", "int8_linear")])
def test_libraries_and_kernels_are_stated(checkpoint: Path, precision: str, operator: str) -> None:
    plain = load(checkpoint).attested["kernels"]
    assert plain.keys() == {"torch", "matmul"}
    assert plain["torch"] == torch.__version__
    assert plain["matmul"] == f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    found = load(checkpoint, precision).attested["kernels"]
    assert found["bitsandbytes"] == {
        "version": bitsandbytes.__version__,
        "native_library": "libbitsandbytes_cpu.so",
    }
    assert found["products"].keys() == {precision}
    assert found["products"][precision].startswith(operator)


def test_a_kernel_that_repacks_is_stated(checkpoint: Path) -> None:
    """Where this CPU has it."""
    cell = load(checkpoint, "nf4", compute_dtype="bfloat16")
    available = bitsandbytes.nn.Linear4bit(64, 32).support_avx512bf16_for_cpu
    assert ("repacked" in cell.attested["kernels"]["products"]["nf4"]) == available
    for layer in four_bit_layers(cell):
        layer.support_avx512bf16_for_cpu = True
    assert "repacked" in attest(cell.model)["kernels"]["products"]["nf4"]


def test_layers_that_disagree_are_stated_one_by_one(checkpoint: Path) -> None:
    model = load(checkpoint, "nf4").model
    layers = model.model.layers
    layers[0].self_attn.q_proj.compute_dtype = torch.float16
    assert attest(model)["compute_dtype"] == ["float16", "float32"]
    layers[1].mlp = load(checkpoint, "fp4").model.model.layers[1].mlp
    assert attest(model)["quantisation"] == "mixed"


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


def four_bit_layers(cell: Engine) -> list[Any]:
    return [m for m in cell.model.modules() if type(m).__name__ == "Linear4bit"]


def dequantised(cell: Engine) -> LlamaForCausalLM:
    """The same model with plain layers that hold the unpacked values."""
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
    own = cell.attested.keys() - {"checkpoint", "attention_kernels"}
    assert attest(cell.model) == {name: cell.attested[name] for name in own}


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


def test_tf32_is_not_attested_where_the_environment_forbids_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert tf32_in_force()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert not tf32_in_force()
