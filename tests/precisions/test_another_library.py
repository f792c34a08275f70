"""A precision of another library is one file: generic code reads its layers without knowing it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import harness.precisions
from harness import catalog
from harness.engines.transformers.engine import TransformersEngine
from harness.errors import InputError
from harness.metrics import footprint
from tests.support.cells_in_process import (
    load,
    make_context,
    replace_in_precision,
    write_llama,
)

SCHEME = '''"""round8: weights rounded to 8 bits, one scale per row."""

from harness.descriptions import LayerReader, OptionsBase, PackedLayer, Precision
from harness.precisions.checks import check_quantised


class Options(OptionsBase):
    """No variations."""


def make_layer(layer):
    import torch

    class RoundedLinear(torch.nn.Linear):
        def __init__(self, weight):
            super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
            scale = weight.abs().amax(1, keepdim=True) / 127
            packed = (weight / scale).round().to(torch.int8)
            self.weight = torch.nn.Parameter(packed, requires_grad=False)
            self.register_buffer("scale", scale)

        def forward(self, inputs):
            return inputs @ (self.weight * self.scale).T

    return RoundedLinear(layer.weight.detach())


def prepare(model, options, device):
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if hasattr(layer, "weight"):
                    setattr(part, name, make_layer(layer))


def read(layer):
    if type(layer).__name__ != "RoundedLinear":
        return None
    return PackedLayer("round8", tuple(layer.weight.shape), (layer.weight,), (layer.scale,),
                       {"block_size": "row"})


PRECISION = Precision(
    help=__doc__,
    options=Options,
    load_arguments=lambda options, device: {"dtype": "float32"},
    prepare=prepare,
    check=lambda attested, options, device: check_quantised(attested, "round8", "float32"),
    layers=LayerReader(
        library="rounding",
        modules=(__name__,),
        read=read,
        stored_names=(".rounded_scale",),
        describe_library=lambda: {"version": "1"},
        describe_products=lambda kind, layers, device: f"unpack {len(layers)} layers",
    ),
)
'''


@pytest.fixture
def scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file in the folder of precisions."""
    (tmp_path / "round8.py").write_text(SCHEME)
    folders = [*harness.precisions.__path__, str(tmp_path)]
    monkeypatch.setattr(harness.precisions, "__path__", folders)
    forget_precisions()
    yield
    monkeypatch.undo()
    sys.modules.pop("harness.precisions.round8", None)
    forget_precisions()


def forget_precisions() -> None:
    for found in vars(catalog).values():
        getattr(found, "cache_clear", lambda: None)()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "model")


def read_footprint(cell: TransformersEngine) -> dict[str, Any]:
    measured = footprint.measure(cell, footprint.Options(), make_context(Path("/")))
    assert measured.validity.status == "ok", measured.validity
    return {name: value.value for name, value in measured.values.items()}


def test_it_is_loaded_attested_and_counted(checkpoint: Path, scheme: None) -> None:
    plain, rounded = load(checkpoint), load(checkpoint, "round8")
    attested = rounded.attested
    assert attested["quantisation"] == "round8"
    assert attested["linear_dtypes"] == {"float32": 1, "int8": 14}
    assert attested["block_size"] == "row"
    assert attested["nonfinite_constants"] == 0
    assert attested["kernels"]["rounding"] == {"version": "1"}
    assert attested["kernels"]["products"] == {"round8": "unpack 14 layers"}
    assert attested["unquantised"].keys() == {"embedding", "output head"}
    before, after = read_footprint(plain), read_footprint(rounded)
    assert after["parameters"] == before["parameters"]
    assert after["quantised_bytes"] == rounded.counts.linear_weights
    assert 8 < after["bits_per_weight"] < 9
    assert rounded.count_work().layer_weights == plain.count_work().layer_weights


def test_a_model_of_it_is_no_plain_one(
    checkpoint: Path, scheme: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = catalog.load_precision("round8").prepare
    replace_in_precision(monkeypatch, "fp32", prepare=prepare)
    with pytest.raises(InputError, match="declared unquantised, loaded as round8"):
        load(checkpoint, "fp32")


def test_a_layer_that_it_left_out_is_refused(
    checkpoint: Path, scheme: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = catalog.load_precision("round8").prepare

    def forget_one(model: Any, options: Any, device: str) -> None:
        layer = model.model.layers[1].mlp.down_proj
        prepare(model, options, device)
        model.model.layers[1].mlp.down_proj = layer

    replace_in_precision(monkeypatch, "round8", prepare=forget_one)
    with pytest.raises(InputError, match=r"1 linear layers are unquantised, such as .*1.mlp.down"):
        load(checkpoint, "round8")


def test_a_checkpoint_that_holds_its_tensors_is_recognised(checkpoint: Path, scheme: None) -> None:
    path = checkpoint / "model.safetensors"
    tensors = {**load_file(path), "model.layers.0.mlp.up_proj.rounded_scale": torch.ones(2)}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"already quantised \(it holds .*\.rounded_scale\)"):
        load(checkpoint)
