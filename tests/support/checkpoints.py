"""Checkpoint folders for tests: laid out as transformers does, with a few bytes of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from harness.suite.model_sources import ModelFiles, find_files
from harness.suite.models import ModelSpec


def write_model(folder: Path, *, seed: int = 0, shards: int = 1, tokenizer: bool = True) -> Path:
    """A checkpoint as transformers lays it out, with some bytes of weights per file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    random = np.random.default_rng(seed)
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
        index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for i, name in enumerate(names):
        save_file({f"w{i}": random.standard_normal((8, 8), dtype=np.float32)}, folder / name)
    if tokenizer:
        (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "seed": seed}))
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


def resolve_local(folder: Path, **options: Any) -> ModelFiles:
    """The files of a model in a local folder."""
    model = ModelSpec(name="m", source=folder.name, **options)
    return find_files(model, folder.parent, online=False)
