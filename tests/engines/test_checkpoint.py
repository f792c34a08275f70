"""checkpoint: stored dtypes, weights quantised already, what float16 does; real files and loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RwkvConfig, RwkvForCausalLM

from harness.engines.transformers.checkpoint import (
    Checkpoint,
    find_quantised,
    has_wider_floats,
    read_checkpoint,
)
from harness.engines.transformers.fp16_damage import (
    CastCounts,
    count_cast_damage,
    describe_damage,
    examine_cast,
)
from harness.errors import InputError
from harness.run.process import call_in_worker
from tests.support.cells_in_process import load, write_checkpoint, write_llama

NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
ELEMENTS = 107_840  # of the tiny Llama


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def forget_quantisation(folder: Path) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    return folder


# what is stored


def test_headers_tell_dtypes_shapes_files_and_bytes(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model", dtype=torch.bfloat16)
    edit_weights(folder, lambda w: w.update({NORM: w[NORM].float()}))
    checkpoint = read_checkpoint(str(folder))
    assert checkpoint.dtypes == {"BF16": 20, "F32": 1}
    assert checkpoint.tensors[UP] == ("BF16", (128, 64))
    size = (folder / "model.safetensors").stat().st_size
    assert checkpoint.describe() == {"files": 1, "bytes": size, "dtypes": checkpoint.dtypes}
    assert load(folder, "fp32").attested["checkpoint"] == checkpoint.describe()


def test_every_file_of_a_checkpoint_in_parts_is_read(tmp_path: Path) -> None:
    model = load(write_llama(tmp_path / "whole")).model
    model.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    checkpoint = read_checkpoint(str(tmp_path / "parts"))
    assert len(checkpoint.paths) > 2
    assert checkpoint.dtypes == {"F32": 21}
    assert load(tmp_path / "parts").attested["checkpoint"]["files"] == len(checkpoint.paths)


# quantised already


@pytest.mark.parametrize(("precision", "found"), [("nf4", ".absmax"), ("int8", ".SCB")])
@pytest.mark.parametrize("again", ["fp32", "nf4", "int8"])
def test_a_quantised_checkpoint_is_recognised_without_its_config(
    tmp_path: Path, precision: str, found: str, again: str
) -> None:
    model = load(write_llama(tmp_path / "model"), precision).model
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match="already quantised") as caught:
        load(forget_quantisation(tmp_path / "saved"), again)
    assert found in str(caught.value)
    assert f"measuring it as {again} would mislabel it: use the original" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dtype", "found"),
    [
        ("h.0.mlp.qweight", "I32", "h.0.mlp.qweight is stored as I32"),
        ("h.0.mlp.weight_packed", "I32", "h.0.mlp.weight_packed is stored as I32"),
        ("h.0.mlp.weight.quant_state.bitsandbytes__nf4", "U8", "it holds h.0.mlp.weight.quant_st"),
        ("h.0.mlp.weight", "F8_E4M3", "h.0.mlp.weight is stored as F8_E4M3"),
        ("h.0.mlp.weight", "I8", "h.0.mlp.weight is stored as I8"),
        ("h.0.mlp.gate_up_proj_blocks", "U8", "h.0.mlp.gate_up_proj_blocks is stored as U8"),
        ("h.0.mlp.weight", "F16", None),
        ("h.0.attn.bias", "U8", None),  # GPT-2's causal mask
        ("h.0.attn.bias", "BOOL", None),
        ("position_ids", "I64", None),
    ],
)
def test_signs_of_a_quantiser_are_not_confused_with_masks_and_indices(
    name: str, dtype: str, found: str | None
) -> None:
    checkpoint = Checkpoint((), {"wte.weight": ("F16", (8, 8)), name: (dtype, (8, 8))})
    sign = find_quantised(checkpoint)
    assert sign == found if found is None else str(sign).startswith(found)


# float16


def test_weights_are_counted_as_the_cast_treats_them(tmp_path: Path) -> None:
    """65,504 is the largest, 2^-14 the smallest normal, 2^-24 the smallest; half of it is zero."""
    given = [65504.0, 65519.0, 65520.0, -1e5, 2.0**-14, 2.0**-15, -(2.0**-24), 2.0**-25, 1e-9, 0.0]
    tensors = {
        "a": torch.tensor([*given, float("inf"), float("nan")]),
        "b": torch.full((3, 5), 1e-9, dtype=torch.bfloat16),
        "c": torch.ones(4, dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert count_cast_damage(read_checkpoint(str(tmp_path))) == {
        "a": CastCounts(weights=12, overflowed=2, flushed=2, subnormal=2),
        "b": CastCounts(weights=15, overflowed=0, flushed=15, subnormal=0),
    }


def test_large_tensors_are_counted_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.engines.transformers.fp16_damage.CHUNK_WEIGHTS", 7)
    save_file({"a": torch.full((10, 10), 1e6)}, tmp_path / "model.safetensors")
    assert count_cast_damage(read_checkpoint(str(tmp_path))) == {"a": CastCounts(100, 100, 0, 0)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_16_bits_is_counted_as_it_is_cast(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    save_file({"a": every}, tmp_path / "model.safetensors")
    cast = every.half()
    expected = CastCounts(
        weights=1 << 16,
        overflowed=int((cast.isinf() & every.isfinite()).sum()),
        flushed=int(((cast == 0) & (every != 0)).sum()),
        subnormal=int(((cast != 0) & (cast.abs() < 2.0**-14)).sum()),
    )
    assert count_cast_damage(read_checkpoint(str(tmp_path))) == {"a": expected}


def test_weights_are_examined_once_whatever_the_process(tmp_path: Path) -> None:
    """The second time none of them is there to be read."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.full((3, 5), 1e-9), "b": torch.ones(4)}, path)
    checkpoint = read_checkpoint(str(tmp_path))
    first = examine_cast(checkpoint, "0" * 64)
    assert first == {"a": CastCounts(15, 0, 15, 0), "b": CastCounts(4, 0, 0, 0)}
    path.unlink()
    assert call_in_worker(examine_cast, checkpoint, "0" * 64) == first
    with pytest.raises(FileNotFoundError):
        examine_cast(checkpoint, "1" * 64)  # other weights


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": [1, 2, 3, 4, 5]}', '{"a": 1}'])
def test_an_examination_that_cannot_be_read_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    save_file({"a": torch.full((3,), 1e6)}, tmp_path / "model.safetensors")
    stored = tmp_path / "cache" / "casts" / f"{'0' * 64}.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(content)
    checkpoint = read_checkpoint(str(tmp_path))
    expected = {"a": CastCounts(3, 3, 0, 0)}
    assert examine_cast(checkpoint, "0" * 64) == expected
    assert json.loads(stored.read_text()) == {"a": [3, 3, 0, 0]}


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "file"))
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    found = examine_cast(read_checkpoint(str(tmp_path)), "0" * 64)
    assert found == {"a": CastCounts(3, 0, 0, 0)}


def test_a_second_load_in_float16_reads_what_the_first_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    folder = edit_weights(write_llama(tmp_path / "model", dtype=torch.bfloat16), spoil)
    first = load(folder, "fp16")
    monkeypatch.setattr("harness.engines.transformers.fp16_damage.safe_open", None)
    second = load(folder, "nf4", compute_dtype="float16")
    assert first.attested["checkpoint"]["fp16"]["overflowed"] == 1
    assert second.attested["checkpoint"]["fp16"]["overflowed"] == 1


def spoil(weights: dict[str, torch.Tensor]) -> None:
    weights[UP][0, 0] = 1e5
    weights[NORM][3] = 1e-9


def test_a_bfloat16_checkpoint_loaded_as_float16_is_examined(tmp_path: Path) -> None:
    folder = edit_weights(write_llama(tmp_path / "model", dtype=torch.bfloat16), spoil)
    cell = load(folder, "fp16")
    found = cell.attested["checkpoint"]["fp16"]
    assert (found["weights"], found["overflowed"], found["flushed"]) == (ELEMENTS, 1, 1)
    assert found["first_nonfinite"] == "model.layers.1.mlp.up_proj"
    assert found["nonfinite_activations"] > 0
    assert cell.flags[0] == "infinite in float16: 1 of the checkpoint's weights"
    assert cell.flags[1].endswith(
        "activations on a probe text, first in model.layers.1.mlp.up_proj"
    )
    for precision in ("fp32", "bf16", "nf4"):
        other = load(folder, precision)
        assert other.flags == ()
        assert "fp16" not in other.attested["checkpoint"]


def test_a_quantised_cell_that_computes_in_float16_is_examined_too(tmp_path: Path) -> None:
    folder = edit_weights(write_llama(tmp_path / "model", dtype=torch.bfloat16), spoil)
    cell = load(folder, "nf4", compute_dtype="float16")
    assert cell.attested["checkpoint"]["fp16"]["overflowed"] == 1
    assert "infinite in float16: 1 of the checkpoint's weights" in cell.flags


def test_activations_that_overflow_are_flagged_though_every_weight_fits(tmp_path: Path) -> None:
    """200 x 200 x the norm of an embedding is past 65,504 within one layer."""

    def enlarge(weights: dict[str, torch.Tensor]) -> None:
        for name in ("gate_proj", "up_proj"):
            weights[f"model.layers.0.mlp.{name}.weight"] *= 400

    folder = edit_weights(write_checkpoint(tmp_path / "model"), enlarge)
    cell = load(folder, "fp16")
    found = cell.attested["checkpoint"]["fp16"]
    assert (found["overflowed"], found["flushed"]) == (0, 0)
    assert found["nonfinite_activations"] > 0
    assert found["first_nonfinite"].startswith("model.layers.0.mlp")
    assert len(cell.flags) == 1
    assert load(folder, "bf16").flags == ()


def test_a_sound_checkpoint_is_counted_and_not_flagged(tmp_path: Path) -> None:
    cell = load(write_checkpoint(tmp_path / "model", dtype=torch.bfloat16), "fp16")
    found = cell.attested["checkpoint"]["fp16"]
    assert found["weights"] == ELEMENTS
    assert found["subnormal"] > 0
    assert found["probe_tokens"] == 32
    assert found["nonfinite_activations"] == 0
    assert found["first_nonfinite"] is None
    assert cell.flags == ()


def test_a_probe_is_no_longer_than_the_model_s_context(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model", max_position_embeddings=8)
    assert load(folder, "fp16").attested["checkpoint"]["fp16"]["probe_tokens"] == 8


def test_a_float16_checkpoint_has_nothing_to_lose(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model", dtype=torch.float16)
    assert not has_wider_floats(read_checkpoint(str(folder)))
    assert "fp16" not in load(folder, "fp16").attested["checkpoint"]


def test_what_an_architecture_keeps_in_float32_does_not_overflow(tmp_path: Path) -> None:
    """As RWKV's decay, which transformers never casts to float16."""
    torch.manual_seed(0)
    shape = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "context_length": 64}
    RwkvForCausalLM(RwkvConfig(**shape, attention_hidden_size=64)).save_pretrained(tmp_path)
    decay = "rwkv.blocks.1.attention.time_decay"
    edit_weights(tmp_path, lambda w: w[decay].fill_(-1e5))
    cell = load(tmp_path, "fp16")
    found = cell.attested["checkpoint"]["fp16"]
    kept = 2 * 2 * 64  # decay and first, of two layers
    assert found["overflowed"] == 0
    assert found["weights"] == cell.counts.parameters - kept
    assert cell.flags == ()


def test_scales_that_int8_makes_in_float16_are_flagged_where_they_are_infinite(
    tmp_path: Path,
) -> None:
    folder = edit_weights(write_llama(tmp_path / "model", dtype=torch.bfloat16), spoil)
    cell = load(folder, "int8")
    assert cell.attested["nonfinite_constants"] == 1
    activations, constants = cell.flags
    assert activations.endswith("on a probe text, first in model.layers.1.mlp.up_proj")
    assert constants == "not finite: 1 quantisation constants, and so what they scale"


@pytest.mark.parametrize(
    ("counts", "flags"),
    [
        (CastCounts(100_000, 0, 100, 5000), ()),  # a thousandth, and no more
        (
            CastCounts(100_000, 0, 101, 0),
            ("zero in float16: 101 of the checkpoint's weights (0.10%)",),
        ),
        (
            CastCounts(100_000, 1200, 0, 0),
            ("infinite in float16: 1,200 of the checkpoint's weights",),
        ),
    ],
)
def test_what_is_flagged(counts: CastCounts, flags: tuple[str, ...]) -> None:
    found = {**asdict(counts), "nonfinite_activations": 0, "first_nonfinite": None}
    assert describe_damage(found) == flags
