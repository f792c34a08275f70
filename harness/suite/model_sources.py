"""A suite's model -> checked files on disk: embedded, a local folder, or a hub repository.

Imports no torch and no transformers. Does not load models: it finds their files, refuses those that
could not be loaded, and identifies them.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.descriptions import Device
from harness.errors import InputError
from harness.suite.data_source import locate_source
from harness.suite.model_files import (
    CONFIG,
    TOKENIZER_FILES,
    FilesMissing,
    check_config,
    check_safetensors,
    choose_files,
    has_tokenizer,
    hash_files,
    list_weights,
    read_header,
)
from harness.suite.models import Architecture, ModelSpec, PrecisionSpec


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model and their identity."""

    folder: str | None  # holds config.json and the weights; None: random weights, not yet made
    tokenizer_folder: str | None  # None: the source has no tokenizer and none was named
    revision: str | None  # resolved commit of a hub source
    weights_sha256: str  # over config.json and the weight files
    tokenizer_sha256: str | None
    weights_file_bytes: int


@dataclass(frozen=True)
class CellJob:
    """What an engine loads for one cell, and on which device; crosses the process boundary.

    ``capability`` is a CUDA device's compute capability, None where that is unknown.
    """

    model: ModelSpec
    precision: PrecisionSpec
    files: ModelFiles
    device: str
    suite_folder: Path
    online: bool
    capability: tuple[int, int] | None = None

    @property
    def target(self) -> Device:
        """The device as precisions know it."""
        return Device(self.device.partition(":")[0], self.capability)


def find_files(model: ModelSpec, folder: Path, online: bool) -> ModelFiles:
    """Find, and for hub sources fetch, the files of one model; check and identify them.

    ``folder`` is the suite file's, for relative paths. Random weights have no folder yet, and a
    hash of their recipe. Raises `UnavailableError` and `InputError`.
    """
    tokenizer: tuple[str, str] | tuple[None, None] = (None, None)
    if model.tokenizer is not None:
        place, in_cache = _obtain(model.tokenizer, folder, online)
        choose_files(model.tokenizer, os.listdir(place), weights=False, code=False)
        tokenizer = _identify_tokenizer(place, in_cache)
    if isinstance(model.source, Architecture):
        recipe = json.dumps([model.source.model_dump(), model.seed], sort_keys=True)
        weights_sha256 = hashlib.sha256(recipe.encode()).hexdigest()
        return ModelFiles(None, tokenizer[0], None, weights_sha256, tokenizer[1], 0)
    place, in_cache = _obtain(model.source, folder, online, model)
    names = os.listdir(place)
    choose_files(model.source, names, weights=True, code=False)
    check_config(place, model.source)
    weights = list_weights(place, model.source)
    for path in weights:
        check_safetensors(path, model.source)
    if model.tokenizer is None and has_tokenizer(names):
        tokenizer = _identify_tokenizer(place, in_cache)
    return ModelFiles(
        folder=str(place),
        tokenizer_folder=tokenizer[0],
        revision=place.name if in_cache else None,
        weights_sha256=hash_files([place / CONFIG, *weights], in_cache),
        tokenizer_sha256=tokenizer[1],
        weights_file_bytes=sum(path.stat().st_size for path in weights),
    )


@dataclass(frozen=True)
class ModelHead:
    """What is known of a model before its weights are fetched.

    ``folder`` holds its config; None for random weights. ``tensors`` are the dtype and shape of
    each by the files' headers, ``file_bytes`` the size of these files: empty and None where only
    the config is at hand. ``download_bytes`` are those that are not on this machine yet.
    """

    folder: str | None
    revision: str | None = None
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    file_bytes: int | None = None
    download_bytes: int | None = 0


def read_head(model: ModelSpec, folder: Path, online: bool) -> ModelHead:
    """The config and the headers of a model's weights; fetches nothing large.

    A local folder may hold a config alone. Raises `UnavailableError` and `InputError`.
    """
    if isinstance(model.source, Architecture):
        return ModelHead(None)
    place, in_cache = _obtain(model.source, folder, online, model, head=True)
    names = os.listdir(place)
    choose_files(model.source, names, weights=True, code=False, head=True)
    check_config(place, model.source)
    revision = place.name if in_cache else None
    try:
        paths = list_weights(place, model.source)
    except FilesMissing:
        if not in_cache:
            return ModelHead(str(place))
        from harness.suite.hub import read_remote_headers

        tensors, size = (online and read_remote_headers(model.source, place.name)) or ({}, None)
        return ModelHead(str(place), revision, tensors, size, size)
    for path in paths:
        check_safetensors(path, model.source)
    tensors = {name: found for path in paths for name, found in read_header(path).items()}
    return ModelHead(str(place), revision, tensors, sum(p.stat().st_size for p in paths))


def list_local_weights(model: ModelSpec, folder: Path) -> list[Path]:
    """The weight files of a model as far as they are on this machine; reads and fetches none.

    Raises what `find_files` raises.
    """
    if isinstance(model.source, Architecture):
        return []
    place, _ = _obtain(model.source, folder, False, model)
    return list_weights(place, model.source)


def _identify_tokenizer(place: Path, in_cache: bool) -> tuple[str, str]:
    return str(place), hash_files([place / name for name in TOKENIZER_FILES], in_cache)


def _obtain(
    source: str, folder: Path, online: bool, model: ModelSpec | None = None, head: bool = False
) -> tuple[Path, bool]:
    """The folder of a source, and whether it lies in the hub's cache, fetched where needed.

    Without ``model`` it is a tokenizer's; ``head``: without its weights.
    """
    kind, place = locate_source(source, folder)
    revision = None if model is None else model.revision
    if kind == "hub":
        from harness.suite.hub import fetch  # imports huggingface_hub, which takes a while

        code = model is not None and model.trust_remote_code
        weights = model is not None
        found = fetch(place, revision, online=online, weights=weights, code=code, head=head)
        return Path(found), True
    if not os.path.isdir(place):
        raise InputError(f"{source} is no folder; give the one that holds the model's {CONFIG}")
    if revision is not None:
        raise InputError(f"{source}: a revision is for hub models; this one is {kind}")
    return Path(place), False
