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
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from harness.machine.places import cache_folder
from harness.suite.data_source import DataSource

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine

# Part of every name: raise it where the same text and tokenizer would now give something else.
_FORMAT = 1
# A tokenizer takes some 450 bytes per token while it works: a long text is given to it in pieces
# of so many characters, each of which begins so many before the end of the last.
_PIECE = 1 << 18
_OVERLAP = 1 << 14
# So many tokens in a row must be the same, and at the same place, where two pieces are joined.
_AGREE = 64
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


def tokenise_text(engine: Engine, source: DataSource, context: MeasureContext) -> TokenisedText:
    """The text of ``source`` in this cell's tokens; read and tokenised at most once per process.

    Raises `InputError` for a model without a tokenizer, and as `harness.scoring.data.load_text`.
    """
    from harness.scoring.data import load_text

    tokenizer = engine.require_tokenizer()
    held = _held.setdefault(tokenizer, {})
    place = f"{context.suite_folder}\n{source.model_dump_json()}"
    if place not in held:
        text, text_sha256 = load_text(source, context)
        ids, ends = _encode_cached(engine, tokenizer, text, text_sha256)
        words = 1 + sum(1 for _ in re.finditer(r"\s+", text))
        held[place] = TokenisedText(ids, ends, text_sha256, len(text.encode()), words)
    return held[place]


def encode_with_byte_ends(
    tokenizer: Any, text: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Token ids with the tokenizer's own special tokens, and the UTF-8 byte each one ends at.

    What lies between two tokens counts with the later one. Without offsets (a slow tokenizer)
    the ends are estimated by spreading the bytes evenly. With them a long text is tokenised in
    pieces that are joined where they agree: the tokens are those of the whole.
    """
    if not getattr(tokenizer, "is_fast", False):
        ids = np.asarray(tokenizer(text)["input_ids"], np.int32)
        return ids, len(text.encode()) * np.arange(1, len(ids) + 1) // max(1, len(ids))
    size = _PIECE
    while (parts := _encode_in_pieces(tokenizer, text, size)) is None:
        size *= 4
    ids = np.concatenate([ids for ids, _ in parts])
    ends = np.concatenate([ends for _, ends in parts])
    return ids, np.maximum.accumulate(ends, out=ends)


def _encode_in_pieces(
    tokenizer: Any, text: str, size: int
) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]] | None:
    """Ids and ends, part by part; the tokenizer never sees more than ``size`` characters.

    None where two pieces could not be joined, which a ``size`` of the whole text cannot meet.
    """
    parts = []
    left, begin = _encode_piece(tokenizer, text, 0, size, 0), 0
    while left.stop < len(text):
        joined = _encode_next(tokenizer, text, left, begin, size)
        if joined is None:
            return None
        right, cut, right_begin = joined
        parts.append((left.ids[begin:cut], left.ends[begin:cut]))
        left, begin = right, right_begin
    return [*parts, (left.ids[begin:], left.ends[begin:])]


@dataclass(frozen=True)
class _Piece:
    """The tokens of characters ``start`` to ``stop`` of a text, the first at UTF-8 ``byte``.

    ``starts`` and ``stops`` (tokens,) are characters of the whole text, ``ends`` its bytes.
    Special tokens are there only where the piece has an end of the text.
    """

    start: int
    stop: int
    byte: int
    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def _encode_piece(tokenizer: Any, text: str, start: int, size: int, byte: int) -> _Piece:
    part = text[start : start + size]
    stop = start + len(part)
    encoded = tokenizer(
        part,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids = np.asarray(encoded["input_ids"], np.int32)
    flat = chain.from_iterable(encoded["offset_mapping"])
    offsets = np.fromiter(flat, np.int64, 2 * len(ids)).reshape(-1, 2)
    own = np.flatnonzero(np.asarray(encoded["special_tokens_mask"]) == 0)
    first = 0 if start == 0 or not own.size else int(own[0])
    last = len(ids) if stop == len(text) or not own.size else int(own[-1]) + 1
    ids, offsets = ids[first:last], offsets[first:last]
    # Sorted, as _find_joint needs them: a special token at the end says that it starts at 0.
    starts = np.maximum.accumulate(offsets[:, 0])
    ends = byte + _bytes_before(part)[offsets[:, 1]]
    return _Piece(start, stop, byte, ids, start + starts, start + offsets[:, 1], ends)


def _encode_next(
    tokenizer: Any, text: str, left: _Piece, begin: int, size: int
) -> tuple[_Piece, int, int] | None:
    """The piece after ``left``, and the token at which each of the two is cut.

    The overlap grows up to half a piece; None where that is not enough. Tokens of ``left`` before
    ``begin`` belong to an earlier piece.
    """
    overlap = _OVERLAP
    while overlap <= size // 2:
        start = left.stop - overlap
        byte = left.byte + len(text[left.start : start].encode())
        right = _encode_piece(tokenizer, text, start, size, byte)
        cut = _find_joint(left, begin, right)
        if cut is not None:
            return right, *cut
        overlap *= 4
    return None


def _find_joint(left: _Piece, begin: int, right: _Piece) -> tuple[int, int] | None:
    """The middle of the longest run of tokens that both pieces have, as an index into each.

    What lies beyond a piece can change tokens near its end only. Two tokens side by side in one
    valid run of BPE merges stay so in any, and a best path of a unigram model stays the best on
    either side of a point that it passes: where both pieces agree, the whole agrees.
    None where no run is as long as `_AGREE`.
    """
    first = max(begin, int(np.searchsorted(left.starts, right.start)))
    ids, starts, stops = left.ids[first:], left.starts[first:], left.stops[first:]
    if len(ids) < _AGREE or not len(right.ids):
        return None
    # Several tokens may start at one character: the n-th of them here is the n-th there.
    rank = np.arange(len(ids)) - np.searchsorted(starts, starts)
    at = np.minimum(np.searchsorted(right.starts, starts) + rank, len(right.ids) - 1)
    same = (right.ids[at] == ids) & (right.starts[at] == starts) & (right.stops[at] == stops)
    linked = same[1:] & same[:-1] & (np.diff(at) == 1)
    edges = np.flatnonzero(np.concatenate(([True], ~linked, [True])))
    lengths = np.diff(edges)
    longest = int(lengths.argmax())
    if lengths[longest] < _AGREE:
        return None
    middle = int(edges[longest] + lengths[longest] // 2)
    return first + middle, int(at[middle])


def _bytes_before(text: str) -> npt.NDArray[np.int64]:
    """How many UTF-8 bytes precede each character, and the text's end: (characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate(([0], widths.cumsum()))


def _encode_cached(
    engine: Engine, tokenizer: Any, text: str, text_sha256: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    path = _cache_path(engine, tokenizer, text_sha256)
    kept = _read(path) if path is not None else None
    if kept is not None:
        return kept
    ids, ends = encode_with_byte_ends(tokenizer, text)
    if path is not None:
        _write(path, ids, ends)
    return ids, ends


def _cache_path(engine: Engine, tokenizer: Any, text_sha256: str) -> Path | None:
    """Where the tokens lie; None for a tokenizer whose own code no hash of its files covers.

    A model's config has a say in what class reads the same files, hence class and probe.
    """
    import tokenizers
    import transformers

    tokenizer_sha256 = engine.job.files.tokenizer_sha256
    if engine.job.model.trust_remote_code or tokenizer_sha256 is None:
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
