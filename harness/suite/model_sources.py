"""A suite's model source -> checked files on disk: embedded, a local folder, or a hub repository.

Imports no torch and no transformers, and huggingface_hub only where a hub source needs it. Does not
load models: it finds their files, refuses what could not be loaded, and says what exactly they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.suite.data_source import locate_source
from harness.suite.hub import fetch_model, fetch_tokenizer, hub_is_reachable
from harness.suite.model_files import (
    CONFIG,
    SourceError,
    SourceUnavailable,
    check_config,
    check_safetensors,
    describe_no_tokenizer,
    has_tokenizer,
    hash_files,
    hash_tokenizer,
    list_weights,
)

__all__ = [
    "ModelFiles",
    "SourceError",
    "SourceUnavailable",
    "hub_is_reachable",
    "resolve_model",
    "resolve_tokenizer",
]


@dataclass(frozen=True)
class ModelFiles:
    """Where a model's files lie and what they are."""

    folder: str | None  # holds config.json and the weights; None: random weights, not yet made
    tokenizer_folder: str | None  # None: the source has no tokenizer and none was named
    revision: str | None  # resolved commit of a hub source
    weights_sha256: str  # over config.json and the weight files
    tokenizer_sha256: str | None
    weights_file_bytes: int


def resolve_model(
    source: str,
    *,
    revision: str | None,
    tokenizer: str | None,
    folder: Path,
    online: bool,
    allow_code: bool = False,
) -> ModelFiles:
    """Find, and for hub sources fetch, the files of one model; check and identify them.

    ``folder`` is the suite file's, for relative paths. ``tokenizer`` is a source of its own; None
    takes the model's. ``allow_code`` also fetches a hub model's top-level ``*.py``. Raises
    `SourceUnavailable` and `SourceError`.
    """
    kind, place = _locate(source, folder)
    commit = None
    if kind == "hub":
        place = fetch_model(place, revision, online=online, allow_code=allow_code)
        commit = Path(place).name
    elif revision is not None:
        raise SourceError(f"{source}: a revision is for hub models; this one is {kind}")
    check_config(Path(place), source)
    weights = list_weights(Path(place), source)
    for path in weights:
        check_safetensors(path, source)
    tokenizer_place: str | None
    tokenizer_sha256: str | None
    if tokenizer is not None:
        tokenizer_place, tokenizer_sha256 = resolve_tokenizer(
            tokenizer, folder=folder, online=online
        )
    elif has_tokenizer(os.listdir(place)):
        tokenizer_place, tokenizer_sha256 = place, hash_tokenizer(Path(place), kind == "hub")
    else:
        tokenizer_place = tokenizer_sha256 = None
    return ModelFiles(
        folder=place,
        tokenizer_folder=tokenizer_place,
        revision=commit,
        weights_sha256=hash_files([Path(place) / CONFIG, *weights], kind == "hub"),
        tokenizer_sha256=tokenizer_sha256,
        weights_file_bytes=sum(path.stat().st_size for path in weights),
    )


def resolve_tokenizer(source: str, *, folder: Path, online: bool) -> tuple[str, str]:
    """The folder and sha256 of a tokenizer of any kind; raises as `resolve_model`."""
    kind, place = _locate(source, folder)
    if kind == "hub":
        place = fetch_tokenizer(place, online=online)
    if not has_tokenizer(os.listdir(place)):
        raise describe_no_tokenizer(source)
    return place, hash_tokenizer(Path(place), kind == "hub")


def _locate(source: str, folder: Path) -> tuple[str, str]:
    """`locate_source` with the mistakes of a local source told apart."""
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
