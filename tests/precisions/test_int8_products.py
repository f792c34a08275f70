"""int8 products pass through float16 on CUDA, whatever the compute dtype: attested and probed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.precisions.bitsandbytes import find_input_dtype, find_result_dtype
from tests.support.cells_in_process import load, write_checkpoint


class ThroughFloat16:
    """bitsandbytes' int8 product as its CUDA kernel gives it, computed by its CPU code."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def default(self, *given: Any, dtype: torch.dtype, **named: Any) -> torch.Tensor:
        result: torch.Tensor = self._real.default(*given, dtype=torch.float16, **named)
        return result.to(dtype)


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = torch.ops.bitsandbytes.int8_scaled_mm
    monkeypatch.setattr(torch.ops.bitsandbytes, "int8_scaled_mm", ThroughFloat16(real))
    find_result_dtype.cache_clear()
    yield
    find_result_dtype.cache_clear()


@pytest.fixture
def casts_no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another version of bitsandbytes, which takes inputs as they are."""

    def multiply(given: torch.Tensor, *_: Any, state: Any, **__: Any) -> torch.Tensor:
        return given @ (state.CB * state.SCB[:, None] / 127).to(given.dtype).T

    monkeypatch.setattr(bitsandbytes, "matmul", multiply)
    find_input_dtype.cache_clear()
    yield
    find_input_dtype.cache_clear()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every weight fits float16 and every input of the gate is small, but its results are not."""
    folder = write_checkpoint(
        tmp_path_factory.mktemp("large") / "model", dtype=torch.bfloat16, num_hidden_layers=1
    )
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.0.mlp.gate_proj.weight"] *= 60_000
    weights["model.layers.0.mlp.up_proj.weight"] *= 100
    assert all(tensor.half().isfinite().all() for tensor in weights.values())
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cpu_s_products_keep_float32(large: Path, dtype: str) -> None:
    cell = load(large, "int8", compute_dtype=dtype)
    assert cell.attested["result_dtype"] == "float32"
    assert cell.attested["input_dtype"] == "float16"
    assert cell.attested["checkpoint"]["fp16"] == {
        "probe_tokens": 32,
        "nonfinite_activations": 0,
        "first_nonfinite": None,
    }
    assert cell.flags == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("as_on_cuda")
def test_results_past_float16_are_flagged_where_products_pass_through_it(
    large: Path, dtype: str
) -> None:
    cell = load(large, "int8", compute_dtype=dtype)
    assert cell.attested["result_dtype"] == "float16"
    assert cell.compute_dtype == dtype
    assert cell.attested["checkpoint"]["fp16"]["first_nonfinite"] == "model.layers.0.mlp.gate_proj"
    [flag] = cell.flags
    assert flag.startswith("not finite in float16: ")
    assert flag.endswith("activations on a probe text, first in model.layers.0.mlp.gate_proj")


@pytest.mark.usefixtures("casts_no_input")
def test_to_what_inputs_are_cast_is_tried(large: Path) -> None:
    """Whatever this version is known to do."""
    cell = load(large, "int8", threshold=0.0)
    assert cell.attested["input_dtype"] == "float32"
    assert cell.flags == ()


def test_inputs_past_float16_are_flagged_where_no_16_bit_path_takes_them(large: Path) -> None:
    """Of 0 outliers every input is quantised, after a cast to float16 on a CPU, too."""
    cell = load(large, "int8", threshold=0.0)
    [flag] = cell.flags
    assert "first in model.layers.0.mlp.down_proj" in flag


@pytest.mark.usefixtures("as_on_cuda")
def test_a_sound_model_is_probed_and_not_flagged(tmp_path: Path) -> None:
    cell = load(write_checkpoint(tmp_path / "model", dtype=torch.bfloat16), "int8")
    assert cell.attested["checkpoint"]["fp16"]["nonfinite_activations"] == 0
    assert cell.flags == ()


@pytest.mark.usefixtures("as_on_cuda")
def test_a_float16_checkpoint_has_nothing_to_lose(tmp_path: Path) -> None:
    cell = load(write_checkpoint(tmp_path / "model", dtype=torch.float16), "int8")
    assert "fp16" not in cell.attested["checkpoint"]
