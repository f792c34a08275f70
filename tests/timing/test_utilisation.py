"""The bytes of a decode step and the FLOP of a prompt, against sums done on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.engines.base import Work
from harness.timing.roofline import prefill_flop, share, step_bytes
from tests.support.cells_in_process import SHAPE, load, write_llama

VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = (
    SHAPE[name]
    for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads",
    )
)  # fmt: skip
WIDTH = HIDDEN // HEADS
PER_LAYER = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV_HEADS * WIDTH + 3 * HIDDEN * INNER
NORMS = (2 * LAYERS + 1) * HIDDEN
HEAD = VOCABULARY * HIDDEN


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("utilisation") / "model")


def make_work(**known: Any) -> Work:
    """Nothing but what is given."""
    nothing: dict[str, Any] = {
        "weight_bytes": None, "kv_bytes": None, "layer_weights": None, "head_weights": 5,
        "attention_width": None, "head_everywhere": False, "logit_bytes": 0, "attention_curve": 0.0,
    }  # fmt: skip
    return Work(**nothing | known)


def test_a_step_reads_the_weights_and_the_cache_at_its_mean_context() -> None:
    """N = 5 from a prompt of 10: four steps over 11, 12, 13 and 14 tokens, 12.5 on average."""
    work = make_work(weight_bytes=1000, kv_bytes=8)
    contexts = [11, 12, 13, 14]
    mean = sum(contexts) / len(contexts)
    assert step_bytes(work, 1, 10, 5) == 1000 + 8 * mean
    assert step_bytes(work, 3, 10, 5) == 1000 + 3 * 8 * mean


def test_a_prompt_multiplies_every_weight_and_attends_to_what_came_before() -> None:
    """Two tokens, one layer of one head of width 3, seven weights, a head of five."""
    work = make_work(layer_weights=7, attention_width=3)
    # q·k and p·v: 2 products of 2 FLOP over a width of 3, on half of the 2x2 matrix
    attention = 2 * 2 * 3 * (2 * 2) / 2
    one = 2 * 7 * 2 + attention + 2 * 5
    assert prefill_flop(work, 1, 2) == one
    assert prefill_flop(work, 4, 2) == 4 * one
    everywhere = make_work(layer_weights=7, attention_width=3, head_everywhere=True)
    assert prefill_flop(everywhere, 1, 2) == one + 2 * 5


def test_what_is_unknown_stays_unknown() -> None:
    assert step_bytes(make_work(kv_bytes=8), 1, 10, 5) is None
    assert step_bytes(make_work(weight_bytes=1000), 1, 10, 5) is None
    assert prefill_flop(make_work(attention_width=3), 1, 2) is None
    assert prefill_flop(make_work(layer_weights=7), 1, 2) is None


def test_shares_are_work_per_second_over_the_peak() -> None:
    """4 GB in 2 ms are 2 TB/s, half of what 4 TB/s allow."""
    assert share(4e9, 2e-3, 4e12) == pytest.approx(0.5)
    for unknown in ((None, 1.0, 1.0), (1.0, None, 1.0), (1.0, 1.0, None)):
        assert share(*unknown) is None


def test_the_work_of_a_float_model(checkpoint: Path) -> None:
    work = load(checkpoint).count_work()
    assert work.weight_bytes == 4 * (LAYERS * PER_LAYER + NORMS + HEAD)  # not its embedding
    assert work.kv_bytes == LAYERS * 2 * KV_HEADS * WIDTH * 4
    assert work.layer_weights == LAYERS * PER_LAYER
    assert work.head_weights == HEAD
    assert work.attention_width == LAYERS * HEADS * WIDTH
    assert work.head_everywhere is False


def test_a_tied_embedding_is_read_as_the_head_it_is(tmp_path: Path) -> None:
    work = load(write_llama(tmp_path, tie_word_embeddings=True)).count_work()
    assert work.weight_bytes == 4 * (LAYERS * PER_LAYER + NORMS + HEAD)
    assert work.head_weights == HEAD


@pytest.mark.parametrize("double_quant", [False, True])
def test_a_quantised_model_is_read_packed_with_its_constants(
    checkpoint: Path, double_quant: bool
) -> None:
    loaded = load(checkpoint, "nf4", double_quant=double_quant)
    work = loaded.count_work()
    floats = loaded.model.dtype.itemsize * (NORMS + HEAD)
    packed = LAYERS * PER_LAYER // 2
    assert work.weight_bytes == packed + loaded.counts.constants_bytes + floats
    assert work.layer_weights == LAYERS * PER_LAYER  # unpacked to be multiplied


def test_positions_that_are_looked_up_are_not_read(tmp_path: Path) -> None:
    """GPT-2: a tied head, and a table of positions of which a step reads one row."""
    config = AutoConfig.for_model("gpt2", vocab_size=264, n_embd=64, n_layer=2, n_head=4)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    work = load(tmp_path).count_work()
    everything = sum(p.numel() for p in model.parameters())
    assert work.weight_bytes == 4 * (everything - config.n_positions * 64)
    assert work.attention_width == 2 * 64
    assert work.layer_weights == 2 * 12 * 64 * 64


def test_a_mixture_of_experts_reads_an_unknown_part(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "mixtral", **SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    work = load(tmp_path).count_work()
    assert (work.weight_bytes, work.layer_weights) == (None, None)


@pytest.mark.parametrize(
    ("precision", "given", "dtype"),
    [
        ("fp32", {}, "float32"),
        ("bf16", {}, "bfloat16"),
        ("nf4", {"compute_dtype": "float32"}, "float32"),
        ("nf4", {"compute_dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_products_are_made_in_the_attested_dtype(
    checkpoint: Path, precision: str, given: dict[str, Any], dtype: str
) -> None:
    found = load(checkpoint, precision, **given).compute_dtype
    assert found == dtype
    assert isinstance(getattr(torch, found), torch.dtype)
