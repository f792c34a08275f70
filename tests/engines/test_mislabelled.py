"""attest: a cell that is not what it was declared to be is refused, by the real loading path."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor
from transformers import (
    BitsAndBytesConfig,
    MixtralConfig,
    MixtralForCausalLM,
)

from harness.engines.transformers import loading
from harness.errors import InputError
from tests.support.cells_in_process import load, replace_in_precision, write_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("attest") / "model")


def quantised(**config: Any) -> dict[str, Any]:
    return {"dtype": torch.float32, "quantization_config": BitsAndBytesConfig(**config)}


LAST = "model.layers.1.mlp.down_proj"
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
        "declared bfloat16, loaded as float16",
    ),
    "bf16 as fp32": (
        *("fp32", {}, {"dtype": torch.bfloat16}),
        "declared float32, loaded as bfloat16",
    ),
    "int8 as fp32": (
        *("fp32", {}, quantised(load_in_8bit=True)),
        "declared unquantised, loaded as int8; declared float32, but linear layers hold int8",
    ),
    "fp32 as fp16": ("fp16", {}, {"dtype": torch.float32}, "declared float16, loaded as float32"),
    "skipped layers": (
        *("nf4", {}, quantised(**NF4, llm_int8_skip_modules=["q_proj", "lm_head"])),
        "declared nf4, but 2 linear layers are unquantised, such as "
        "model.layers.0.self_attn.q_proj",
    ),
    "one skipped layer": (
        *("int8", {}, quantised(load_in_8bit=True, llm_int8_skip_modules=[LAST, "lm_head"])),
        f"declared int8, but 1 linear layers are unquantised, such as {LAST}",
    ),
    "quantised head": (
        *("nf4", {}, quantised(**NF4, llm_int8_skip_modules=[])),
        "declared nf4 with the output head in float32, but it is nf4 too",
    ),
    "quantisation at each call": (
        *("int8", {}, quantised(load_in_8bit=True, llm_int8_has_fp16_weight=True)),
        "declared int8, loaded as unquantised",
    ),
    "packed in another dtype": (
        *("nf4", {}, quantised(**NF4, bnb_4bit_quant_storage=torch.float32)),
        "declared quant_storage uint8, loaded with float32",
    ),
    "the rest in another dtype": (
        *("nf4", {}, {**quantised(**NF4), "dtype": torch.bfloat16}),
        "declared float32 for what is not quantised, loaded as bfloat16",
    ),
    "another attention": (
        *("fp32", {"attention": "eager"}, {"dtype": torch.float32}),
        "declared attention eager, loaded with sdpa",
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
    replace_in_precision(monkeypatch, precision, load_arguments=lambda *_: arguments)
    monkeypatch.setattr(loading, "choose_attention", lambda *_: {})
    with pytest.raises(InputError) as caught:
        load(checkpoint, precision, **given)
    assert str(caught.value).startswith(f"m declared as {precision} was loaded as something else: ")
    assert reason in str(caught.value)


def cast(*names: str, to: torch.dtype) -> Callable[[Any], None]:
    def spoil(model: Any) -> None:
        for name in names:
            model.get_submodule(name).to(to)

    return spoil


def put_back_one_layer(model: Any) -> None:
    model.model.layers[1].mlp.down_proj = torch.nn.Linear(128, 64, bias=False)


def set_one_threshold(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.state.threshold = 1.0


def call_eager_in_one_layer(model: Any) -> None:
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    model.model.layers[1].self_attn.config = config


def quantise_by_torch(model: Any) -> None:
    model.model = quantised_by_torch(model.model)


def quantise_all_by_torch(model: Any) -> None:
    quantise_by_torch(model)
    model.lm_head = quantised_by_torch(torch.nn.Sequential(model.lm_head))[0]


def quantised_by_torch(module: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, torch.qint8)


class Packed(torch.nn.Module):
    """A layer as other libraries make it: whole numbers and a scale, in no layer of torch's."""

    def __init__(self, weight: torch.Tensor, *, as_buffer: bool) -> None:
        super().__init__()
        self.scale = float(weight.abs().max()) / 127
        packed = (weight / self.scale).round().to(torch.int8)
        if as_buffer:
            self.register_buffer("qweight", packed)
        else:
            self.qweight = torch.nn.Parameter(packed, requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ (self.qweight * self.scale).T


def pack_one_layer(*, as_buffer: bool) -> Callable[[Any], None]:
    def spoil(model: Any) -> None:
        mlp = model.model.layers[1].mlp
        mlp.down_proj = Packed(mlp.down_proj.weight.detach(), as_buffer=as_buffer)

    return spoil


def put_in_a_tensor_of_another_class(model: Any) -> None:
    layer = model.model.layers[1].mlp.down_proj
    weight = TwoTensor(layer.weight.detach(), layer.weight.detach().clone())
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)


FOREIGN = "neither plain torch tensors nor layers of bitsandbytes hold the weights of "
SPOILT = {
    "int8 by torch itself": (
        *("fp32", {}, quantise_by_torch),
        f"{FOREIGN}model.layers.*.self_attn.q_proj, model.layers.*.self_attn.k_proj, "
        "model.layers.*.self_attn.v_proj and 4 more",
    ),
    "int8 by torch itself, the head as well": (
        *("fp32", {}, quantise_all_by_torch),
        f"{FOREIGN}model.layers.*.self_attn.q_proj",
    ),
    "a layer of whole numbers": (
        *("fp32", {}, pack_one_layer(as_buffer=False)),
        f"{FOREIGN}model.layers.*.mlp.down_proj",
    ),
    "a layer of whole numbers in a buffer": (
        *("bf16", {}, pack_one_layer(as_buffer=True)),
        f"{FOREIGN}model.layers.*.mlp.down_proj",
    ),
    "a tensor that is another inside": (
        *("fp32", {}, put_in_a_tensor_of_another_class),
        f"{FOREIGN}model.layers.*.mlp.down_proj",
    ),
    "one layer in another dtype": (
        *("bf16", {}, cast("model.layers.0.mlp.up_proj", to=torch.float16)),
        "declared bfloat16, but 1 tensors hold float16, such as model.layers.*.mlp.up_proj.weight",
    ),
    "the embedding in another dtype": (
        *("fp32", {}, cast("model.embed_tokens", to=torch.bfloat16)),
        "declared float32, but 1 tensors hold bfloat16, such as model.embed_tokens.weight",
    ),
    "a norm in another dtype": (
        *("bf16", {}, cast("model.norm", to=torch.float32)),
        "declared bfloat16, but 1 tensors hold float32, such as model.norm.weight",
    ),
    "all but one in another dtype": (
        *("fp16", {}, lambda model: model.bfloat16().model.norm.half()),
        "declared float16, but 20 tensors hold bfloat16; only 1 hold float16",
    ),
    "a norm next to quantised layers": (
        *("nf4", {}, cast("model.norm", to=torch.bfloat16)),
        "declared float32 for what is not quantised, but 1 tensors hold bfloat16",
    ),
    "a layer put back as floats": (
        *("nf4", {}, put_back_one_layer),
        f"declared nf4, but 1 linear layers are unquantised, such as {LAST}",
    ),
    "one layer of another threshold": (
        *("int8", {}, set_one_threshold),
        "declared outlier threshold 6.0, loaded with [1.0, 6.0]",
    ),
    "one layer of another attention": (
        *("fp32", {"attention": "sdpa"}, call_eager_in_one_layer),
        "declared attention sdpa, loaded with ['eager', 'sdpa']",
    ),
}


@pytest.mark.parametrize(("precision", "given", "spoil", "reason"), SPOILT.values(), ids=SPOILT)
def test_a_model_that_is_not_as_declared_throughout_is_refused(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    given: dict[str, Any],
    spoil: Callable[[Any], None],
    reason: str,
) -> None:
    """The right arguments, and a model that comes out otherwise in one place."""
    replace_in_precision(monkeypatch, precision, prepare=lambda model, *_: spoil(model))
    with pytest.raises(InputError) as caught:
        load(checkpoint, precision, **given)
    assert reason in str(caught.value)


def test_tensors_that_cannot_be_counted_are_refused_before_they_are(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the model is too large to be loaded twice."""
    monkeypatch.setattr(loading, "REHEARSED_BYTES", 0)
    replace_in_precision(
        monkeypatch, "fp32", prepare=lambda model, *_: put_in_a_tensor_of_another_class(model)
    )
    with pytest.raises(InputError, match="something else: neither plain torch"):
        load(checkpoint, "fp32")


def test_autocast_is_refused(checkpoint: Path) -> None:
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(InputError, match="autocast is on: products are computed in another dtype"),
    ):
        load(checkpoint, "fp32")


def test_blocks_of_another_size_are_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the 128 that bitsandbytes took by itself on some AMD cards."""
    real = bitsandbytes.functional.quantize_4bit
    monkeypatch.setattr(
        bitsandbytes.functional,
        "quantize_4bit",
        lambda weight, **named: real(weight, **{**named, "blocksize": 128}),
    )
    with pytest.raises(InputError, match="declared block_size 64, loaded with 128"):
        load(checkpoint, "nf4")


def test_convolution_switches_left_on_are_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loading.set_tf32

    def forget_convolutions(on: bool) -> None:
        real(on)
        torch.backends.cudnn.allow_tf32 = True

    monkeypatch.setattr(loading, "set_tf32", forget_convolutions)
    for precision in ("fp32", "nf4"):
        with pytest.raises(InputError, match="declared TF32 off, in force it is on"):
            load(checkpoint, precision)


def test_tf32_left_on_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(
        loading,
        "set_tf32",
        lambda on: torch.set_float32_matmul_precision("high"),
    )
    try:
        with pytest.raises(InputError, match="declared TF32 off, in force it is on"):
            load(checkpoint, "fp32")
    finally:
        torch.set_float32_matmul_precision(before)


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
    refusal = (
        r"% of the weights are unquantised: .*experts.gate_up_proj "
        r"\(fused experts, which bitsandbytes passes over\)"
    )
    with pytest.raises(InputError, match=refusal):
        load(tmp_path / "mixture", precision)
