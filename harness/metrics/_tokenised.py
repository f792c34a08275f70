"""A text as one model's tokens, made once for all its precisions and measurements. Worker only.

The tokens lie under the harness's cache folder, named by text and tokenizer, and within a process
they are held as long as the tokenizer. A cache that cannot be written or read costs only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from harness.options import DataSource
from harness.places import cache_folder

if TYPE_CHECKING:
    from harness.metrics._forward import MeasureContext
    from harness.models.load import LoadedCell

# Part of every name: raise it where the same text and tokenizer would now give something else.
_FORMAT = 1
_PROBE = "It's 12 naïve 🦙s:\n\n\tdef f(x): return x"


@dataclass(frozen=True)
class TokenisedText:
    """``ids`` (tokens,) int32 with special tokens; ``ends`` (tokens,) the UTF-8 byte each ends at.

    ``text_words`` counts them as lm-evaluation-harness does: pieces between runs of white space.
    """

    ids: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]
    text_sha256: str
    text_bytes: int
    text_words: int

    @property
    def ids_sha256(self) -> str:
        """SHA-256 of the token ids as little-endian 32-bit integers."""
        return hashlib.sha256(self.ids.astype("<i4").tobytes()).hexdigest()


_held: WeakKeyDictionary[Any, dict[str, TokenisedText]] = WeakKeyDictionary()


def tokenise_text(loaded: LoadedCell, source: DataSource, context: MeasureContext) -> TokenisedText:
    """The text of ``source`` in this cell's tokens; read and tokenised at most once per process.

    Raises `InputError` for a model without a tokenizer, and as `harness.tasks._data.load_text`.
    """
    from harness.tasks._data import load_text

    tokenizer = loaded.require_tokenizer()
    held = _held.setdefault(tokenizer, {})
    place = f"{context.suite_folder}\n{source.model_dump_json()}"
    if place not in held:
        text, text_sha256 = load_text(source, context)
        ids, ends = _encode_cached(loaded, tokenizer, text, text_sha256)
        words = 1 + sum(1 for _ in re.finditer(r"\s+", text))
        held[place] = TokenisedText(ids, ends, text_sha256, len(text.encode()), words)
    return held[place]


def encode_with_byte_ends(
    tokenizer: Any, text: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Token ids with the tokenizer's own special tokens, and the UTF-8 byte each one ends at.

    What lies between two tokens counts with the later one. Without offsets (a slow tokenizer)
    the ends are estimated by spreading the bytes evenly.
    """
    if not getattr(tokenizer, "is_fast", False):
        ids = np.asarray(tokenizer(text)["input_ids"], np.int32)
        return ids, len(text.encode()) * np.arange(1, len(ids) + 1) // max(1, len(ids))
    encoded = tokenizer(
        text, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    stops = np.fromiter((stop for _, stop in encoded["offset_mapping"]), np.int64)
    reached = np.maximum.accumulate(stops)
    return np.asarray(encoded["input_ids"], np.int32), _bytes_before(text)[reached]


def _bytes_before(text: str) -> npt.NDArray[np.int64]:
    """How many UTF-8 bytes precede each character, and the text's end: (characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate(([0], widths.cumsum()))


def _encode_cached(
    loaded: LoadedCell, tokenizer: Any, text: str, text_sha256: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    path = _cache_path(loaded, tokenizer, text_sha256)
    kept = _read(path) if path is not None else None
    if kept is not None:
        return kept
    ids, ends = encode_with_byte_ends(tokenizer, text)
    if path is not None:
        _write(path, ids, ends)
    return ids, ends


def _cache_path(loaded: LoadedCell, tokenizer: Any, text_sha256: str) -> Path | None:
    """Where the tokens lie; None for a tokenizer whose own code no hash of its files covers.

    A model's config has a say in what class reads the same files, hence class and probe.
    """
    import tokenizers
    import transformers

    tokenizer_sha256 = loaded.job.files.tokenizer_sha256
    if loaded.job.model.trust_remote_code or tokenizer_sha256 is None:
        return None
    facts = [
        _FORMAT,
        text_sha256,
        tokenizer_sha256,
        type(tokenizer).__name__,
        tokenizer(_PROBE)["input_ids"],
        tokenizers.__version__,
        transformers.__version__,
    ]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return cache_folder() / "tokens" / f"{key[:32]}.npz"


def _read(path: Path) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]] | None:
    """What `_write` wrote; None where there is nothing, or nothing whole (the format checks it)."""
    try:
        # np.load would leave a damaged file open.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            ids, ends = arrays["ids"], arrays["ends"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    good = ids.dtype == np.int32 and ends.dtype == np.int64 and ids.ndim == 1
    return (ids, ends) if good and ids.shape == ends.shape else None


def _write(path: Path, ids: npt.NDArray[np.int32], ends: npt.NDArray[np.int64]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # A full disk or a read-only home must not cost the measurement.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.savez(file, ids=ids, ends=ends)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
