"""A stored distribution on disk: a folder of the cache with rows, head and manifest. No torch.

The folder appears whole, by a rename, and is never changed. Its name is made of what determines the
distribution and of what it holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from harness.machine.cache import mark_used
from harness.machine.files import cache_folder

ROWS, HEAD, MANIFEST = "rows.safetensors", "head.safetensors", "manifest.json"
_NAME = re.compile("[0-9a-f]{32}-[0-9a-f]{16}")


class Layout(BaseModel, frozen=True, extra="forbid"):
    """What a row holds: ``states`` (width,) for the output head, or whole ``logits``.

    ``reason`` says why it is logits. ``matmul`` is torch's float32 matmul precision: under another
    the same states and head give other logits.
    """

    kind: Literal["states", "logits"]
    width: int
    vocabulary: int
    dtype: str
    matmul: str
    reason: str | None = None


class Manifest(BaseModel, frozen=True, extra="forbid"):
    """``bytes`` of each file; ``sha256`` over their contents in that order.

    ``facts`` are all that determines the distribution.
    """

    format: Literal[2] = 2
    created: str
    layout: Layout
    rows: int
    bytes: dict[str, int]
    sha256: str
    facts: dict[str, Any]


def folder_of(name: str = "") -> Path:
    """Where the distribution ``name`` lies; without a name, where all lie."""
    return cache_folder() / "distributions" / name


def read_manifest(name: str) -> Manifest | str:
    """Check every byte of a stored distribution and mark it as used.

    Returns in words what is missing or not what was written.
    """
    if not _NAME.fullmatch(name):
        return f"{name!r} is not a name of one"
    folder = folder_of(name)
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        sha256 = hash_files(folder / file for file in manifest.bytes)
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except ValidationError:
        return f"its {MANIFEST} is not a manifest of format 2"
    if sha256 != manifest.sha256:
        return "its SHA-256 is not that of what was written"
    mark_used(folder)
    return manifest


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
