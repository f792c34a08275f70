"""What a folder must hold so that it can be loaded as a model, and the hash of its content.

Reads names, headers and hashes, never tensors; imports no torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from harness.errors import InputError

CONFIG = "config.json"
SINGLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_VOCABULARIES = (
    "spiece.model", "tekken.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt",
)  # fmt: skip
TOKENIZER_FILES = (
    *_VOCABULARIES, "added_tokens.json", "chat_template.jinja", "merges.txt",
    "special_tokens_map.json", "tokenizer_config.json",
)  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_WEIGHTS = (".safetensors", *_PICKLES, ".gguf", ".h5", ".msgpack", ".onnx", ".npz")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FilesMissing(InputError):  # noqa: N818 - says which error
    """Some of the files are missing; in the hub's cache that is an unfinished download."""


def choose_files(
    source: str, names: Sequence[str], *, weights: bool, code: bool, head: bool = False
) -> list[str]:
    """The files among ``names`` that a model needs, or a tokenizer where that has no ``weights``.

    ``code`` takes the Python files too, ``head`` no weights, but all that stands beside them.
    Raises `FilesMissing` with the reason and the remedy.
    """
    chosen = [name for name in names if name in list_wanted(weights)]
    if not weights:
        if not has_tokenizer(names):
            raise FilesMissing(f"{source} has no tokenizer (none of {', '.join(_VOCABULARIES)})")
        return chosen
    if CONFIG not in names:
        adapter = ": it is an adapter; merge it into its base model first"
        is_adapter = "adapter_config.json" in names
        raise FilesMissing(f"{source} has no {CONFIG}{adapter if is_adapter else ''}")
    if head:
        pass
    elif SINGLE_WEIGHTS in names:
        chosen.append(SINGLE_WEIGHTS)
    elif WEIGHTS_INDEX in names:
        # Some repositories hold everything twice (consolidated.safetensors and the shards).
        shards = [name for name in names if _SHARD.fullmatch(name)]
        chosen += shards or [name for name in names if name.endswith(".safetensors")]
    else:
        found = sorted(name for name in names if name.endswith(_WEIGHTS))
        message = f"{source} has no {SINGLE_WEIGHTS} or {WEIGHTS_INDEX}, only safetensors are read"
        if found:
            message += f"; found {', '.join(found[:3])}"
        if any(name.endswith(_PICKLES) for name in found):
            message += (
                ": where you trust their author, convert pickle weights with "
                "AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(FOLDER)"
            )
        raise FilesMissing(message)
    return [*chosen, *(name for name in names if code and name.endswith(".py"))]


def list_wanted(weights: bool) -> list[str]:
    """Names of the small files that a model or a tokenizer may have."""
    # AutoTokenizer reads the model type from config.json where nothing else names the class.
    model_files = ("generation_config.json", WEIGHTS_INDEX) if weights else ()
    return [CONFIG, *TOKENIZER_FILES, *model_files]


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether these files include a vocabulary, the one part that every tokenizer needs."""
    return any(name in _VOCABULARIES for name in names)


def list_weights(folder: Path, source: str) -> list[Path]:
    """The weight files that transformers will read from a folder with one or an index of them.

    Sorted by name. Raises `FilesMissing`, and `InputError` for a wrong index.
    """
    if (folder / SINGLE_WEIGHTS).is_file():
        return [folder / SINGLE_WEIGHTS]
    try:
        names = set(json.loads((folder / WEIGHTS_INDEX).read_bytes())["weight_map"].values())
        outside = sorted(name for name in names if Path(name).name != name)
    except OSError as error:
        raise FilesMissing(f"{source}: cannot read {WEIGHTS_INDEX}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{source}: {WEIGHTS_INDEX} has no readable weight_map") from error
    if outside:
        raise InputError(f"{source}: {WEIGHTS_INDEX} names files outside its folder: {outside}")
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        raise FilesMissing(
            f"{source}: {len(missing)} of the {len(names)} files that {WEIGHTS_INDEX} names are "
            f"missing: {', '.join(missing[:3])}"
        )
    return [folder / name for name in sorted(names)]


def check_config(folder: Path, source: str) -> None:
    """Raise `InputError` unless config.json holds a JSON object."""
    try:
        if not isinstance(json.loads((folder / CONFIG).read_bytes()), dict):
            raise ValueError("no object")
    except ValueError as error:
        raise InputError(f"{source}: {CONFIG} is not a readable JSON object: {error}") from error


def check_safetensors(path: Path, source: str) -> None:
    """Raise `InputError` unless header and file size agree; reads the header only."""
    try:
        with safe_open(path, framework="np"):
            return
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
    with path.open("rb") as file:
        if file.read(8) == b"version ":
            reason = "it is a Git LFS pointer: run `git lfs pull` there"
    raise InputError(f"{source}: {path.name} is truncated or corrupt: {reason}")


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of every tensor in a safetensors file, by its header.

    https://huggingface.co/docs/safetensors/index#format
    """
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: (entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def hash_files(paths: Iterable[Path], in_cache: bool) -> str:
    """sha256 over (name, sha256 of the content) of the files that exist, in name order.

    ``in_cache`` says that they lie in the hub's cache, where large ones are named by their sha256.
    """
    ordered = sorted(paths, key=lambda path: path.name)
    pairs = [[path.name, _hash_content(path, in_cache)] for path in ordered if path.is_file()]
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
