"""Sizes known from a config alone, against what loading really holds and public figures."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from harness.catalog import list_names, load_precision
from harness.engines.transformers.sizes import size_up
from harness.errors import InputError
from harness.machine.capacity import Growth, Sizes
from harness.timing.phases import Phase, read_phase
from tests.support.cells_in_process import load, make_job, write_llama

KNOWN = json.loads(Path(__file__).with_name("well_known_models.json").read_text())
# Every precision that a CPU can load, with its variants.
CELLS = [
    (name, options)
    for name in list_names("precisions")
    if "cpu" in load_precision(name).devices
    for options in ({}, *load_precision(name).variants.values())
]
SHAPE = {
    **{"vocab_size": 99, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "odd": {"model_type": "llama", "hidden_size": 56, "intermediate_size": 99},  # no whole blocks
    "gpt2": {"model_type": "gpt2"},
    "opt": {"model_type": "opt", "ffn_dim": 128, "word_embed_proj_dim": 64},
    "gpt_neox": {"model_type": "gpt_neox"},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2},
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "num_key_value_heads": 2},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 2, "num_key_value_heads": 2},
}


def size_folder(folder: Path, precision: str, device: str = "cuda", **given: Any) -> Sizes:
    """The sizes of a folder that holds no more than a config."""
    job = make_job("builtin:tiny-world", precision, device=device, **given)
    return size_up(replace(job, files=replace(job.files, folder=str(folder))))


def check_against_loaded(source: Any, precision: str, options: dict[str, Any]) -> None:
    cell = load(source, precision, **options)
    sizes, counts = size_up(cell.job), cell.counts
    assert sum(sizes.parameters.values()) == counts.parameters
    assert sizes.quantised == counts.quantised_bytes
    assert sizes.constants == counts.constants_bytes
    assert sizes.unquantised == counts.unquantised_bytes
    assert sizes.total == pytest.approx(counts.total_bytes, rel=1e-3)
    assert sizes.max_context == cell.max_context
    assert sizes.kv_per_token == cell.count_work().kv_bytes


@pytest.mark.parametrize(("precision", "options"), CELLS)
def test_the_embedded_model_takes_what_was_planned(precision: str, options: dict[str, Any]) -> None:
    check_against_loaded("builtin:tiny-world", precision, options)


@pytest.mark.skipif(
    not os.environ.get("HARNESS_REAL_DATA"),
    reason="HARNESS_REAL_DATA names no folder with models/ and data/",
)
@pytest.mark.slow
@pytest.mark.parametrize("model", ["stories260K-hf", "wiki3m-hf"])
@pytest.mark.parametrize(("precision", "options"), CELLS)
def test_real_models_take_what_was_planned(
    model: str, precision: str, options: dict[str, Any]
) -> None:
    folder = Path(os.environ["HARNESS_REAL_DATA"]).resolve() / "models" / model
    check_against_loaded(folder, precision, options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_take_what_was_planned(tmp_path: Path, name: str) -> None:
    fields = {**SHAPE, **ARCHITECTURES[name]}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for precision, options in CELLS:
        if name == "mixtral" and load_precision(precision).layers is not None:
            continue  # refused: bitsandbytes passes over its experts
        check_against_loaded(tmp_path, precision, options)


@pytest.mark.parametrize("name", KNOWN)
def test_well_known_models_have_the_published_number_of_parameters(
    tmp_path: Path, name: str
) -> None:
    """As the hub counts them in the safetensors headers of ``source``."""
    (tmp_path / "config.json").write_text(json.dumps(KNOWN[name]["config"]))
    sizes = size_folder(tmp_path, "bf16")
    assert sum(sizes.parameters.values()) == KNOWN[name]["parameters"]
    assert sizes.total == pytest.approx(2 * KNOWN[name]["parameters"], rel=1e-5)
    assert sizes.kv_per_token == KNOWN[name]["kv_bytes_per_token"]
    assert sizes.max_context == KNOWN[name]["config"]["max_position_embeddings"]


def test_a_published_4_bit_checkpoint_has_the_size_that_is_planned(tmp_path: Path) -> None:
    """unsloth/llama-3-8b-bnb-4bit, nf4 with double quantisation: one file of 5.70 GB."""
    (tmp_path / "config.json").write_text(json.dumps(KNOWN["llama-3-8b"]["config"]))
    sizes = size_folder(tmp_path, "nf4", double_quant=True)
    assert sizes.total == pytest.approx(5.70e9, rel=0.01)


def test_what_reading_a_prompt_takes_is_estimated(tmp_path: Path) -> None:
    """By hand: a cache of 2·2·2·16 numbers, 5·64 + 3·128 activations per token, 264 logits."""
    job = make_job(write_llama(tmp_path), "fp32")
    sizes = size_up(job)
    assert sizes.kv_per_token == 4 * 128
    assert sizes.growth == Growth(8 * 264, 4 * (128 + 5 * 64 + 3 * 128), 0.0, 8 * 264)
    eager = make_job(tmp_path, "fp32", attention="eager")
    found = size_up(eager).growth
    assert found is not None
    assert found.curve == 4 * (4 + 4)
    quantised = size_up(make_job(tmp_path, "nf4"))
    assert quantised.unpacked == 4 * 64 * 128
    assert quantised.load_peak == quantised.total + quantised.unpacked
    assert quantised.growth is not None
    assert quantised.growth.shared == quantised.unpacked


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_the_estimate_is_near_what_is_measured(tmp_path: Path, precision: str) -> None:
    shape = {
        **{"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536},
        **{"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8},
        "max_position_embeddings": 4096,
    }
    cell = load(write_llama(tmp_path, **shape), precision)
    growth = size_up(cell.job).growth
    assert growth is not None
    for batch, tokens in ((1, 2048), (4, 1024)):
        reading = read_phase(cell, cell.count_work(), Phase("prefill", batch, tokens))
        assert not isinstance(reading, str)
        if reading.grown is None:
            pytest.skip("peaks on a CPU need Linux's /proc")
        assert growth.of(batch)(tokens) == pytest.approx(reading.grown, rel=0.25)


def test_a_cache_that_is_none_of_keys_and_values_is_not_estimated(tmp_path: Path) -> None:
    fields = {**SHAPE, "model_type": "mistral", "sliding_window": 16}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    sizes = size_folder(tmp_path, "bf16")
    assert sizes.kv_per_token is None
    assert sizes.growth is None
    assert sizes.peak(16, 1) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "no model can be made of its config"),
        ({"model_type": "no_such_model"}, "no_such_model"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "t5"}, "T5Config"),
    ],
)
def test_a_config_that_is_no_model_is_explained(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        size_folder(tmp_path, "bf16")
