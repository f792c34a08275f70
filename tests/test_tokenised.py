"""A text becomes tokens once per model: in a process, across processes, and whatever the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells_in_process import load, make_context, write_llama, write_tokenizer

from harness.metrics._tokenised import TokenisedText, encode_with_byte_ends, tokenise_text
from harness.models.load import LoadedCell
from harness.options import DataSource
from harness.tasks import _data

TEXT = "a🦙é\n\n b  c"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    return tmp_path


def read(cell: LoadedCell, folder: Path, name: str = "text.txt") -> TokenisedText:
    return tokenise_text(cell, DataSource(path=name), make_context(folder))


def kept_files(folder: Path) -> list[Path]:
    return list((folder / "cache" / "tokens").iterdir())


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is tokenised from now on."""
    from harness.metrics import _tokenised

    texts: list[str] = []

    def spy(tokenizer: Any, text: str) -> Any:
        texts.append(text)
        return encode_with_byte_ends(tokenizer, text)

    monkeypatch.setattr(_tokenised, "encode_with_byte_ends", spy)
    return texts


def test_what_is_known_of_a_text(folder: Path) -> None:
    cell = load(folder / "model")
    text = read(cell, folder)
    ids = cell.require_tokenizer()(TEXT)["input_ids"]
    assert (text.ids.tolist(), text.ids.dtype, text.ends.dtype) == (ids, np.int32, np.int64)
    assert text.text_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert text.text_bytes == text.ends[-1] == len(TEXT.encode()) == 14
    assert text.text_words == 3
    little_endian = b"".join(i.to_bytes(4, "little") for i in ids)
    assert text.ids_sha256 == hashlib.sha256(little_endian).hexdigest()


@pytest.mark.parametrize(("text", "words"), [("a", 1), ("a b", 2), (" a\n\tb ", 4)])
def test_words_are_counted_as_lm_evaluation_harness_does(
    folder: Path, text: str, words: int
) -> None:
    """len(re.split(r"\\s+", text)): white space at an end has an empty word beyond it."""
    (folder / "text.txt").write_text(text)
    assert read(load(folder / "model"), folder).text_words == words


# Bytes


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, False), (True, True)])
def test_each_token_ends_at_a_byte_of_the_text(tmp_path: Path, bos: bool, eos: bool) -> None:
    """🦙 is four tokens of one character; special tokens add no bytes."""
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=bos, eos=eos)
    ids, ends = encode_with_byte_ends(load(tmp_path / "model").require_tokenizer(), "a🦙é\n")
    assert len(ids) == 8 + bos + eos
    assert ends.tolist() == [0] * bos + [1, 5, 5, 5, 5, 7, 7, 8] + [8] * eos


def test_a_text_without_tokens_has_no_ends(tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=False)
    ids, ends = encode_with_byte_ends(load(tmp_path / "model").require_tokenizer(), "")
    assert ids.tolist() == ends.tolist() == []


def test_without_offsets_the_bytes_are_spread_evenly_and_none_is_lost() -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, 2, 3]}

    ids, ends = encode_with_byte_ends(Slow(), "é🦙ab")
    assert (ids.tolist(), ends.tolist()) == ([1, 2, 3], [2, 5, 8])


# Once


def test_one_process_reads_and_tokenises_a_text_once(
    folder: Path, tokenised: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = load(folder / "model")
    first = read(cell, folder)
    monkeypatch.setattr(_data, "load_text", lambda *_: pytest.fail("read again"))
    assert read(cell, folder) is first
    assert tokenised == [TEXT]


def test_another_precision_of_the_model_does_not_tokenise_again(
    folder: Path, tokenised: list[str]
) -> None:
    first = read(load(folder / "model"), folder)
    again = read(load(folder / "model", "bf16"), folder)
    assert tokenised == [TEXT]
    assert np.array_equal(again.ids, first.ids)
    assert np.array_equal(again.ends, first.ends)
    assert (again.text_sha256, again.text_words) == (first.text_sha256, first.text_words)
    assert len(kept_files(folder)) == 1


def test_a_changed_text_is_tokenised_again(folder: Path, tokenised: list[str]) -> None:
    read(load(folder / "model"), folder)
    (folder / "text.txt").write_text("other")
    found = read(load(folder / "model"), folder)
    assert tokenised == [TEXT, "other"]
    assert len(found.ids) == 6


def test_another_tokenizer_has_tokens_of_its_own(folder: Path, tokenised: list[str]) -> None:
    first = read(load(folder / "model"), folder)
    write_tokenizer(folder / "model", bos=False)
    found = read(load(folder / "model"), folder)
    assert tokenised == [TEXT, TEXT]
    assert found.ids.tolist() == first.ids[1:].tolist()


def test_a_tokenizer_of_the_same_files_that_reads_them_otherwise_is_another(
    folder: Path, tokenised: list[str]
) -> None:
    """The model's config may have its class or special tokens changed without their files."""
    read(load(folder / "model"), folder)
    cell = load(folder / "model")
    cell.require_tokenizer().backend_tokenizer.post_processor = None
    read(cell, folder)
    assert tokenised == [TEXT, TEXT]


def test_a_tokenizer_with_code_of_its_own_is_not_trusted_to_stay_the_same(folder: Path) -> None:
    read(load(folder / "model", trust_remote_code=True), folder)
    assert not (folder / "cache" / "tokens").exists()


# A cache that is no good


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def write_other_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=np.zeros(3, np.int32), ends=np.zeros(2, np.int64))


def write_another_type(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=np.zeros(3), ends=np.zeros(3, np.int64))


def write_objects(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=np.array([None, 1], object), ends=np.zeros(2, np.int64))


def write_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3, np.int32))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip_a_bit,
        write_other_arrays,
        write_another_type,
        write_objects,
        write_one_array,
        empty,
    ],
)
def test_a_damaged_file_counts_as_none_and_is_replaced(
    folder: Path, tokenised: list[str], damage: Callable[[Path], None]
) -> None:
    wanted = read(load(folder / "model"), folder)
    (path,) = kept_files(folder)
    damage(path)
    found = read(load(folder / "model"), folder)
    assert tokenised == [TEXT, TEXT]
    assert np.array_equal(found.ids, wanted.ids)
    assert np.array_equal(found.ends, wanted.ends)
    read(load(folder / "model"), folder)
    assert tokenised == [TEXT, TEXT]


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, tokenised: list[str]) -> None:
    (folder / "cache").write_text("a file where the folder should be")
    wanted = read(load(folder / "model"), folder)
    assert len(read(load(folder / "model"), folder).ids) == len(wanted.ids)
    assert tokenised == [TEXT, TEXT]


def test_a_write_that_fails_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    assert len(read(load(folder / "model"), folder).ids) > 0
    assert kept_files(folder) == []
