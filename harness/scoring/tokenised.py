"""A text as one model's tokens, tokenised whole and once per process."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from harness.descriptions import MeasureContext
from harness.engines.base import Engine
from harness.scoring.data import load_text
from harness.suite.data_source import DataSource


@dataclass(frozen=True)
class TokenisedText:
    """``ids`` (tokens,) int32 with special tokens; ``ends`` (tokens,) the UTF-8 byte each ends at.

    ``text_words`` is counted as lm-evaluation-harness does: the pieces between runs of white space.
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


# Kept as long as the tokenizer: several measurements of a cell read the same text.
_kept: WeakKeyDictionary[Any, dict[str, TokenisedText]] = WeakKeyDictionary()


def tokenise_text(engine: Engine, source: DataSource, context: MeasureContext) -> TokenisedText:
    """The text of ``source`` in this cell's tokens.

    Raises `InputError` for a model without a tokenizer, and as `harness.scoring.data.load_text`.
    """
    tokenizer = engine.require_tokenizer()
    kept = _kept.setdefault(tokenizer, {})
    key = f"{context.suite_folder}\n{source.model_dump_json()}"
    if key not in kept:
        text, text_sha256 = load_text(source, context)
        words = 1 + sum(1 for _ in re.finditer(r"\s+", text))
        ids, ends = encode_with_byte_ends(tokenizer, text)
        kept[key] = TokenisedText(ids, ends, text_sha256, len(text.encode()), words)
    return kept[key]


def encode_with_byte_ends(
    tokenizer: Any, text: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Token ids with the tokenizer's own special tokens, and the UTF-8 byte each one ends at.

    What lies between two tokens counts with the later one. A tokenizer that gives no offsets (a
    slow one) has its ends estimated: the bytes are spread evenly over the tokens.
    """
    fast = getattr(tokenizer, "is_fast", False)
    encoded = (
        tokenizer(text, return_offsets_mapping=True, verbose=False) if fast else tokenizer(text)
    )
    ids = np.asarray(encoded["input_ids"], np.int32)
    if not fast:
        return ids, len(text.encode()) * np.arange(1, len(ids) + 1) // max(1, len(ids))
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    bytes_before = np.concatenate(([0], widths.cumsum()))  # each character, and the text's end
    stops = np.fromiter((stop for _, stop in encoded["offset_mapping"]), np.int64, len(ids))
    # A special token at the end says that it stops at character 0.
    return ids, np.maximum.accumulate(bytes_before[stops])
