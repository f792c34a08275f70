"""load: a checkpoint is loaded whole and as declared, or refused with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

import harness.engines.transformers.loading
from harness.engines.transformers.loading import load_cell
from harness.errors import InputError, UnavailableError
from harness.worker.serve import guard
from tests.support.cells_in_process import (
    SHAPE,
    load,
    make_job,
    write_checkpoint,
    write_llama,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("load") / "model")


@pytest.fixture
def checkpoint(sound: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_the_weights_are_those_of_the_checkpoint(sound: Path) -> None:
    cell = load(sound)
    stored = load_file(sound / "model.safetensors")
    loaded = dict(cell.model.named_parameters())
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())
    assert not cell.model.training
    assert cell.max_context == 256
    assert cell.device == "cpu"
    assert cell.require_tokenizer()("A").input_ids == [1, cell.tokenizer.vocab["A"]]


@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_missing_tensors_are_refused_not_made_up(checkpoint: Path, precision: str) -> None:
    edit_weights(checkpoint, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(InputError) as caught:
        load(checkpoint, precision)
    assert str(caught.value) == (
        "the checkpoint of m does not fit its config: 1 tensors missing, "
        "such as model.layers.1.mlp.up_proj.weight"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "9 tensors missing, such as model.layers.2.input_layernorm"),
        (
            {"num_hidden_layers": 1},
            "9 tensors of layers beyond it, such as model.layers.1.input_layernorm.weight",
        ),
        ({"intermediate_size": 64}, "6 tensors of another shape, such as model.layers.0.mlp.down"),
        ({"vocab_size": 263}, "2 tensors of another shape, such as lm_head.weight"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_a_config_of_another_shape_is_refused(
    checkpoint: Path, precision: str, changes: dict[str, Any], message: str
) -> None:
    edit_config(checkpoint, **changes)
    with pytest.raises(
        InputError, match=f"^the checkpoint of m does not fit its config: {message}"
    ):
        load(checkpoint, precision)


def test_tensors_that_the_model_has_no_use_for_are_no_error(checkpoint: Path) -> None:
    """Such as the rotary frequencies that older checkpoints store, or a second head."""
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    edit_weights(checkpoint, lambda w: w.update(extra, **{"value_head.weight": torch.ones(1, 64)}))
    assert load(checkpoint).counts.parameters > 0


def test_a_tied_checkpoint_without_a_head_is_complete(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert load(folder).attested["tied_head"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "no-such-model"}, "cannot read the config of m: .*`no-such-model`"),
        ({"hidden_size": "wide"}, "cannot read the config of m: .*hidden_size.* expected int"),
        ({"num_attention_heads": 5}, "cannot read the config of m: .*multiple of the number of a"),
        ({"hidden_act": "nonsense"}, "cannot load m: unknown name 'nonsense'"),
        ({"model_type": "t5"}, "cannot load m: .*T5Config"),
        ({"auto_map": {"AutoConfig": "x.Y"}, "model_type": "z"}, "the config of m: .*custom code"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_config_that_cannot_be_used_is_refused(
    checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(checkpoint, **changes)
    with pytest.raises(InputError, match=message):
        load(checkpoint)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_a_checkpoint_that_is_quantised_already_is_refused(
    checkpoint: Path, precision: str, method: str
) -> None:
    edit_config(checkpoint, quantization_config={"quant_method": method, "bits": 4})
    refusal = (
        rf"m is a checkpoint already quantised \({method}\); measuring it as {precision} would"
    )
    with pytest.raises(InputError, match=refusal):
        load(checkpoint, precision)


def test_a_really_quantised_checkpoint_is_refused(sound: Path, tmp_path: Path) -> None:
    """As transformers saves it."""
    load(sound, "nf4").model.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match=r"already quantised \(bitsandbytes\)"):
        load(tmp_path / "saved", "nf4")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    """263 is the highest id: 264 rows hold it, 263 do not."""
    assert SHAPE["vocab_size"] == 264
    vocabulary = load(checkpoint).require_tokenizer().get_vocab()
    highest = max(vocabulary.values())
    write_tokenizer(write_llama(tmp_path / "fits", vocab_size=highest + 1))
    load(tmp_path / "fits")
    write_tokenizer(write_llama(tmp_path / "small", vocab_size=highest))
    with pytest.raises(InputError) as caught:
        load(tmp_path / "small")
    assert str(caught.value).startswith(
        f"vocabulary mismatch: the tokenizer has token ids up to {highest}, the model's embedding "
        f"only {highest} rows"
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_tokenizer_is_refused(checkpoint: Path, name: str, content: str) -> None:
    (checkpoint / name).write_text(content)
    with pytest.raises(InputError, match="cannot load the tokenizer of m: "):
        load(checkpoint)


def test_a_tokenizer_of_its_own_is_used(sound: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "other", bos=False)
    cell = load(sound, tokenizer=str(tmp_path / "other"))
    assert len(cell.require_tokenizer()("A").input_ids) == 1


def test_a_model_without_a_tokenizer_loads(tmp_path: Path) -> None:
    cell = load(write_llama(tmp_path / "bare"))
    assert cell.tokenizer is None
    with pytest.raises(InputError, match="model 'm' has no tokenizer: set `tokenizer:`"):
        cell.require_tokenizer()


def test_a_checkpoint_in_bfloat16_becomes_what_is_declared(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model", dtype=torch.bfloat16)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = load(folder, precision).model
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_the_model_is_loaded_once_before_it_is_counted(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first load brings in libraries and threads; a large model is not loaded twice for that."""
    loads = []
    real = harness.engines.transformers.loading.load_model

    def count(*given: Any) -> LlamaForCausalLM:
        loads.append(given)
        return real(*given)

    monkeypatch.setattr(harness.engines.transformers.loading, "load_model", count)
    load_cell(make_job(sound))
    assert len(loads) == 2
    monkeypatch.setattr(harness.engines.transformers.loading, "REHEARSED_BYTES", 1000)
    load_cell(make_job(sound))
    assert len(loads) == 3


@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
def test_layers_that_hold_their_weights_transposed_fit(tmp_path: Path, precision: str) -> None:
    """GPT-2's: 64 to 192, 64, 256 and back."""
    config = GPT2Config(vocab_size=99, n_positions=32, n_embd=64, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    cell = load(tmp_path / "gpt2", precision)
    assert cell.max_context == 32
    assert cell.counts.linear_weights == 64 * (192 + 64 + 256 + 256)
    if precision != "fp32":
        assert cell.attested["unquantised"]["output head, tied to the embedding"] == ["lm_head"]
        assert cell.attested["quantisation"] == precision


def test_a_context_is_found_under_its_older_names(sound: Path) -> None:
    cell = load(sound)
    for fields, expected in (
        ({"n_positions": 77}, 77),
        ({"n_ctx": 78}, 78),
        ({"max_position_embeddings": 79, "n_positions": 77}, 79),
        ({"n_positions": -1}, None),  # as some configs say that there is no limit
        ({}, None),
    ):
        model: Any = SimpleNamespace(config=SimpleNamespace(**fields))
        assert replace(cell, model=model).max_context == expected


def test_a_package_that_a_model_needs_and_this_machine_lacks_makes_it_unavailable(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(*given: Any, **named: Any) -> None:
        raise ImportError("this model needs the package einops")

    monkeypatch.setattr(LlamaForCausalLM, "__init__", lack)
    with pytest.raises(UnavailableError, match="cannot load m: this model needs the package ein"):
        load(sound)


# The functions of bitsandbytes that quantise a weight while transformers loads it.
QUANTISERS = {"nf4": "quantize_4bit", "int8": "int8_vectorwise_quant"}


def break_quantiser(patch: pytest.MonkeyPatch, precision: str, error: Exception) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise error

    patch.setattr(bitsandbytes.functional, QUANTISERS[precision], fail)


@pytest.mark.parametrize("precision", sorted(QUANTISERS))
def test_an_error_of_a_quantiser_is_said_with_the_weight(
    sound: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    break_quantiser(monkeypatch, precision, RuntimeError("CUDA error: no kernel image\nfor it"))
    with pytest.raises(InputError) as caught:
        load(sound, precision)
    assert str(caught.value) == (
        "cannot load m: CUDA error: no kernel image for it "
        "(converting model.layers.0.mlp.down_proj.weight)"
    )
    monkeypatch.undo()
    assert load(sound, precision).attested["quantisation"] == precision


@pytest.mark.parametrize("precision", sorted(QUANTISERS))
def test_running_out_of_memory_while_quantising_stays_that(
    sound: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    text = "CUDA out of memory. Tried to allocate 2.00 GiB."
    break_quantiser(monkeypatch, precision, torch.OutOfMemoryError(text))
    with pytest.raises(torch.OutOfMemoryError):
        load(sound, precision)
    failure = guard(lambda: load(sound, precision))
    assert (failure.status, failure.reason) == ("failed", f"OutOfMemoryError: {text}")


def test_a_bug_in_a_quantiser_keeps_its_traceback(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_quantiser(monkeypatch, "nf4", TypeError("an argument too many"))
    failure = guard(lambda: load(sound, "nf4"))
    assert failure.reason == "TypeError: an argument too many"
    assert "in fail" in failure.traceback
