"""A random checkpoint of a given architecture, for speed and memory only.

Written to disk once per architecture and seed, so that it is loaded and quantised by the same
path as a real one. Its text is noise: no quality is measured on it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.errors import InputError
from harness.machine.files import cache_folder
from harness.suite.models import Architecture

_BLOCK = 1 << 24


def make_random_checkpoint(architecture: Architecture, seed: int) -> str:
    """The folder of a bfloat16 checkpoint with weights ~ N(0, initializer_range).

    Weights are cut from one block of 16 M normal draws, since drawing 8 G of them takes minutes.
    Raises `InputError` for an architecture or field that transformers does not know.
    """
    fields = architecture.model_dump()
    key = hashlib.sha256(json.dumps([fields, seed], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "random" / key
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _write_checkpoint(partial, fields, seed)
            os.replace(partial, folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process was first
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return str(folder)


def _write_checkpoint(folder: Path, fields: dict[str, Any], seed: int) -> None:
    fields = dict(fields)
    try:
        config = AutoConfig.for_model(fields.pop("architecture"), **fields)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    except Exception as error:  # each model's config class checks its fields in its own way
        reason = " ".join(str(error).split())
        raise InputError(f"cannot build this architecture: {reason}") from error
    spread = getattr(config, "initializer_range", 0.02)
    generator = torch.Generator().manual_seed(seed)
    block = torch.empty(_BLOCK).normal_(std=spread, generator=generator).to(torch.bfloat16)
    state = {
        name: torch.ones(parameter.shape, dtype=torch.bfloat16)
        if parameter.dim() == 1
        else _cut(block, parameter.shape)
        for name, parameter in model.named_parameters()
    }
    model.save_pretrained(folder, state_dict=state)


def _cut(block: Any, shape: Any) -> Any:
    repeats = -(-shape.numel() // block.numel())
    return block.repeat(repeats)[: shape.numel()].reshape(shape).clone()
