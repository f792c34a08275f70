"""A text becomes tokens once per process, and each token knows the byte it ends at."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from harness.engines.base import Engine
from harness.scoring.tokenised import TokenisedText, encode_with_byte_ends, tokenise_text
from harness.suite.data_source import DataSource
from tests.support.cells_in_process import load, make_context, write_checkpoint, write_tokenizer

REAL = os.environ.get("HARNESS_REAL_DATA")
TEXT = "a🦙é\n\n b  c"


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(write_checkpoint(tmp_path_factory.mktemp("tokenised") / "model"))


def read(cell: Engine, folder: Path, text: str = TEXT) -> TokenisedText:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return tokenise_text(cell, DataSource(path="text.txt"), make_context(folder))


def test_a_text_is_described_by_its_tokens_bytes_words_and_hashes(
    cell: Engine, tmp_path: Path
) -> None:
    text = read(cell, tmp_path)
    ids = cell.require_tokenizer()(TEXT)["input_ids"]
    assert (text.ids.tolist(), text.ids.dtype, text.ends.dtype) == (ids, np.int32, np.int64)
    assert text.text_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert text.text_bytes == text.ends[-1] == len(TEXT.encode()) == 14
    assert text.text_words == 3
    little_endian = b"".join(i.to_bytes(4, "little") for i in ids)
    assert text.ids_sha256 == hashlib.sha256(little_endian).hexdigest()


@pytest.mark.parametrize(("text", "words"), [("a", 1), ("a b", 2), (" a\n\tb ", 4)])
def test_words_are_counted_as_lm_evaluation_harness_does(
    cell: Engine, tmp_path: Path, text: str, words: int
) -> None:
    """len(re.split(r"\\s+", text)): white space at an end has an empty word beyond it."""
    assert read(cell, tmp_path, text).text_words == words


def test_a_process_reads_and_tokenises_a_text_once_per_tokenizer(
    cell: Engine, tmp_path: Path
) -> None:
    first = read(cell, tmp_path)
    assert read(cell, tmp_path, "changed meanwhile") is first
    write_checkpoint(tmp_path / "other")
    assert read(load(tmp_path / "other"), tmp_path, "other").text_bytes == 5


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, False), (True, True)])
def test_each_token_ends_at_a_byte_of_the_text(tmp_path: Path, bos: bool, eos: bool) -> None:
    """🦙 is four tokens of one character; special tokens add no bytes."""
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, bos=bos, eos=eos))
    ids, ends = encode_with_byte_ends(tokenizer, "a🦙é\n")
    assert len(ids) == 8 + bos + eos
    assert ends.tolist() == [0] * bos + [1, 5, 5, 5, 5, 7, 7, 8] + [8] * eos


def test_a_text_without_tokens_has_no_ends(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, bos=False))
    ids, ends = encode_with_byte_ends(tokenizer, "")
    assert ids.tolist() == ends.tolist() == []


def test_without_offsets_the_bytes_are_spread_evenly_and_none_is_lost() -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, 2, 3]}

    ids, ends = encode_with_byte_ends(Slow(), "é🦙ab")
    assert (ids.tolist(), ends.tolist()) == ([1, 2, 3], [2, 5, 8])


@pytest.mark.skipif(not REAL, reason="HARNESS_REAL_DATA names no folder with models/ and data/")
@pytest.mark.parametrize("model", ["gpt2-tokenizer", "stories260K-hf"])
def test_the_tokens_of_a_real_text_are_the_tokenizers_own(model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(REAL or "").resolve() / "models" / model)
    path = Path(REAL or "").resolve() / "data" / "wikitext2" / "wiki.test.raw"
    text = path.read_text(encoding="utf-8")[:200_000]
    ids, ends = encode_with_byte_ends(tokenizer, text)
    assert ids.tolist() == tokenizer(text)["input_ids"]
    assert ends[-1] == len(text.encode())
    assert (np.diff(ends) >= 0).all()
