"""A suite's model -> checked files on disk: embedded, a local folder, or a hub repository.

Imports no torch and no transformers, and huggingface_hub only where a hub source needs it. Does not
load models: it finds their files, refuses those that could not be loaded, and identifies them.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from harness.suite.data_source import SourceKind, locate_source
from harness.suite.hub import fetch
from harness.suite.model_files import (
    CONFIG,
    TOKENIZER_FILES,
    SourceError,
    check_config,
    check_has_tokenizer,
    check_safetensors,
    choose_files,
    has_tokenizer,
    hash_files,
    list_weights,
)
from harness.suite.models import Architecture, ModelSpec


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model and their identity."""

    folder: str | None  # holds config.json and the weights; None: random weights, not yet made
    tokenizer_folder: str | None  # None: the source has no tokenizer and none was named
    revision: str | None  # resolved commit of a hub source
    weights_sha256: str  # over config.json and the weight files
    tokenizer_sha256: str | None
    weights_file_bytes: int


def find_files(model: ModelSpec, folder: Path, online: bool) -> ModelFiles:
    """Find, and for hub sources fetch, the files of one model; check and identify them.

    ``folder`` is the suite file's, for relative paths. Random weights have no folder yet, and a
    hash of their recipe. Raises `SourceUnavailable` and `SourceError`.
    """
    tokenizer: tuple[str, str] | tuple[None, None] = (None, None)
    if model.tokenizer is not None:
        tokenizer = _find_tokenizer(model.tokenizer, folder, online)
    if isinstance(model.source, Architecture):
        recipe = json.dumps([model.source.model_dump(), model.seed], sort_keys=True)
        weights_sha256 = hashlib.sha256(recipe.encode()).hexdigest()
        return ModelFiles(None, tokenizer[0], None, weights_sha256, tokenizer[1], 0)
    source = model.source
    kind, place = _locate(source, folder)
    if kind == "hub":
        code = model.trust_remote_code
        place = fetch(place, model.revision, online=online, weights=True, code=code)
    elif model.revision is not None:
        raise SourceError(f"{source}: a revision is for hub models; this one is {kind}")
    choose_files(source, os.listdir(place), weights=True, code=False)
    check_config(Path(place), source)
    weights = list_weights(Path(place), source)
    for path in weights:
        check_safetensors(path, source)
    if model.tokenizer is None and has_tokenizer(os.listdir(place)):
        tokenizer = place, _hash_tokenizer(place, kind)
    return ModelFiles(
        folder=place,
        tokenizer_folder=tokenizer[0],
        revision=Path(place).name if kind == "hub" else None,
        weights_sha256=hash_files([Path(place) / CONFIG, *weights], in_cache=kind == "hub"),
        tokenizer_sha256=tokenizer[1],
        weights_file_bytes=sum(path.stat().st_size for path in weights),
    )


def _find_tokenizer(source: str, folder: Path, online: bool) -> tuple[str, str]:
    """The folder and sha256 of a tokenizer that has a source of its own."""
    kind, place = _locate(source, folder)
    if kind == "hub":
        place = fetch(place, None, online=online, weights=False)
    check_has_tokenizer(source, os.listdir(place))
    return place, _hash_tokenizer(place, kind)


def _hash_tokenizer(place: str, kind: SourceKind) -> str:
    return hash_files([Path(place) / name for name in TOKENIZER_FILES], in_cache=kind == "hub")


def _locate(source: str, folder: Path) -> tuple[SourceKind, str]:
    """`locate_source` for what must be a folder; every mistake is a `SourceError`."""
    try:
        kind, place = locate_source(source, folder)
    except (FileNotFoundError, ValueError) as error:
        raise SourceError(str(error)) from error
    if kind == "local" and not os.path.isdir(place):
        raise SourceError(
            f"{source} is a file; give the folder that holds it together with {CONFIG}"
        )
    if kind == "builtin" and not os.path.isdir(place):
        raise SourceError(f"{source} is no embedded model")
    return kind, place
