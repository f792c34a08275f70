"""What a folder must hold so that it can be loaded as a model, and the hash of its content.

Reads names, headers and hashes, never tensors; imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

CONFIG = "config.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_VOCABULARIES = {
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SourceUnavailable(Exception):  # noqa: N818 - a state of the machine, not an error
    """The source is not available on this machine now; the cell is skipped with this reason."""


class SourceError(ValueError):
    """The source is wrong and must be corrected by its user; the cell fails."""


class FilesMissing(SourceError):  # noqa: N818 - says which error
    """Some of the files are missing; in the hub's cache that is an unfinished download."""


def check_config(folder: Path, source: str) -> None:
    """Raise `SourceError` unless the folder has a config.json that holds a JSON object."""
    path = folder / CONFIG
    if not path.is_file():
        raise describe_no_config(source, os.listdir(folder))
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceError(f"{source}: {CONFIG} is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise SourceError(f"{source}: {CONFIG} holds a {type(config).__name__}, not an object")


def list_weights(folder: Path, source: str) -> list[Path]:
    """The weight files that transformers will read, in its order of preference, sorted by name."""
    if (folder / SINGLE_WEIGHTS).is_file():
        return [folder / SINGLE_WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise describe_no_weights(source, os.listdir(folder))
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        outside = sorted(name for name in names if Path(name).name != name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{source}: {WEIGHTS_INDEX} has no readable weight_map") from error
    if outside:
        raise SourceError(f"{source}: {WEIGHTS_INDEX} names files outside its folder: {outside}")
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        raise FilesMissing(
            f"{source}: {len(missing)} of the {len(names)} files that {WEIGHTS_INDEX} names are "
            f"missing: {', '.join(missing[:3])}"
        )
    return [folder / name for name in sorted(names)]


def check_safetensors(path: Path, source: str) -> None:
    """Raise `SourceError` unless header and file size agree; reads the header only."""
    with path.open("rb") as file:
        if file.read(8) == b"version ":
            raise SourceError(
                f"{source}: {path.name} is a Git LFS pointer, not the weights: run `git lfs pull` "
                "there"
            )
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise SourceError(f"{source}: {path.name} is truncated or corrupt: {reason}") from error


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether these files include a vocabulary, the one part that every tokenizer needs."""
    return not _VOCABULARIES.isdisjoint(names)


def describe_no_config(source: str, names: Iterable[str]) -> FilesMissing:
    """A folder without config.json, and whether it is an adapter."""
    adapter = ": it is an adapter; merge it into its base model first"
    return FilesMissing(
        f"{source} has no {CONFIG}{adapter if 'adapter_config.json' in names else ''}"
    )


def describe_no_weights(source: str, names: Iterable[str]) -> FilesMissing:
    """Why none of these files can be loaded as weights, and what to do."""

    def find(*suffixes: str) -> str:
        found = sorted(name for name in names if name.endswith(suffixes))
        return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")

    if safe := find(".safetensors"):
        message = f"{source} has {safe}, but neither {SINGLE_WEIGHTS} nor {WEIGHTS_INDEX}"
    elif pickles := find(".bin", ".pt", ".pth", ".ckpt"):
        message = (
            f"{source} holds only pickle weights ({pickles}); only safetensors are loaded: convert "
            "with AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(FOLDER), where you "
            "trust their author"
        )
    else:
        others = find(".gguf", ".h5", ".msgpack", ".onnx", ".npz")
        found = f"; found {others}, which is not read" if others else ""
        message = f"{source} has no weights (*.safetensors){found}"
    return FilesMissing(message)


def check_has_tokenizer(source: str, names: Iterable[str]) -> None:
    """Raise `FilesMissing` unless these files include a vocabulary."""
    if not has_tokenizer(names):
        known = ", ".join(sorted(_VOCABULARIES))
        raise FilesMissing(f"{source} has no tokenizer (none of {known})")


def hash_files(paths: Iterable[Path], in_cache: bool) -> str:
    """sha256 over (name, sha256 of the content) of the files that exist, in name order.

    ``in_cache`` says that they lie in the hub's cache, where large ones are named by their sha256.
    """
    pairs = [
        [path.name, _hash_content(path, in_cache)]
        for path in sorted(paths, key=lambda path: path.name)
        if path.is_file()
    ]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _hash_content(path: Path, in_cache: bool) -> str:
    if in_cache and path.is_symlink():
        # One link only: blobs may themselves be links to a store that names files differently.
        blob = Path(os.readlink(path))
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
            return blob.name
    stat = path.stat()
    return _hash_unchanged(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash_unchanged(path: str, size: int, mtime_ns: int) -> str:  # the memo's key
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
