"""Small real models for tests, and cells loaded from them in this process."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes  # noqa: F401 - before what is imported is frozen
import datasets  # noqa: F401
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import harness.engines.transformers.loading
from harness.catalog import load_precision
from harness.descriptions import MeasureContext, Precision
from harness.engines.transformers.engine import TransformersEngine
from harness.engines.transformers.loading import load_cell
from harness.suite.model_sources import CellJob, find_files
from harness.suite.models import ModelSpec, PrecisionSpec

# A load collects garbage three times: a second, if all that is imported here is looked through.
gc.collect()
gc.freeze()

LETTERS = "ABCD"
SHAPE = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def write_llama(
    folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **shape: Any
) -> Path:
    """A random Llama as a safetensors checkpoint; weights large enough that its logits differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{**SHAPE, "tie_word_embeddings": False, "initializer_range": 0.15, **shape},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, *, bos: bool = True, eos: bool = False) -> Path:
    """A byte-level tokenizer: a token per byte, except that `` A`` to `` D`` are one each."""
    special = {"<pad>": 0, "<s>": 1, "</s>": 2}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**special, **{c: i for i, c in enumerate(alphabet, len(special))}}
    for letter in LETTERS:
        vocabulary[f"Ġ{letter}"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", letter) for letter in LETTERS]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(["<s>"] * bos + ["$A"] + ["</s>"] * eos),
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def write_checkpoint(folder: Path, **shape: Any) -> Path:
    """`write_llama` with `write_tokenizer` in one folder."""
    write_llama(folder, **shape)
    return write_tokenizer(folder)


def make_job(
    source: Any,
    precision: str = "fp32",
    use: str | None = None,
    *,
    device: str = "cpu",
    **given: Any,
) -> CellJob:
    """The job of one cell; ``given`` are fields of the model and options of the precision."""
    fields = {key: given.pop(key) for key in ModelSpec.model_fields.keys() & given.keys()}
    model = ModelSpec(
        name="m", source=source if isinstance(source, dict) else str(source), **fields
    )
    options = load_precision(use or precision).options(**given)
    files = find_files(model, Path("/"), online=False)
    return CellJob(
        model=model,
        precision=PrecisionSpec(name=precision, use=use or precision, options=options),
        files=files,
        device=device,
        suite_folder=Path("/"),
        online=False,
    )


def load(source: Any, precision: str = "fp32", **given: Any) -> TransformersEngine:
    """Load one cell as a worker does."""
    return load_cell(make_job(source, precision, **given))


def replace_in_precision(patch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """Give the loader another description of one precision: what a bug in it would do."""

    def changed(asked: str) -> Precision:
        found = load_precision(asked)
        return replace(found, **changes) if asked == name else found

    patch.setattr(harness.engines.transformers.loading, "load_precision", changed)


def make_context(folder: Path) -> MeasureContext:
    """A measurement's surroundings: a suite that lies in ``folder``, offline, silent."""
    return MeasureContext(suite_folder=folder, online=False, progress=lambda *_: None)
