"""A text becomes tokens once per model: in a process, across processes, and whatever the cache."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import harness
from harness.engines.base import Engine
from harness.scoring import data as _data
from harness.scoring import tokenised as _tokenised
from harness.scoring.tokenised import TokenisedText, encode_with_byte_ends, tokenise_text
from harness.suite.data_source import DataSource
from tests.support.cells_in_process import load, make_context, write_llama, write_tokenizer

REAL = Path(os.environ.get("HARNESS_REAL_DATA") or "/nowhere").resolve()
TEXT = "a🦙é\n\n b  c"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    return tmp_path


def read(cell: Engine, folder: Path, name: str = "text.txt") -> TokenisedText:
    return tokenise_text(cell, DataSource(path=name), make_context(folder))


def kept_files(folder: Path) -> list[Path]:
    return list((folder / "cache" / "tokens").iterdir())


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is tokenised from now on."""
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


# Piece by piece


def write_digit_groups(folder: Path) -> None:
    """Digits in threes from a number's start on, as Llama 3 groups them."""
    groups = {str(n): n for n in range(1000)} | {f"{n:03}": 1000 + n for n in range(1000)}
    tokenizer = Tokenizer(models.WordLevel({**groups, "<unk>": 2000}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\p{N}]"), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def write_word_pieces(folder: Path) -> None:
    """BERT's kind: no offsets for white space, one unknown for a word of over 100 characters."""
    parts = set(map(chr, range(33, 127)))
    names = ["[UNK]", "[CLS]", "[SEP]", *sorted(parts | {f"##{c}" for c in parts})]
    tokenizer = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def write_unigram(folder: Path) -> None:
    """T5's kind: a best path over words that a ▁ begins, the text's first one too."""
    whole = {"▁": -2.0, "▁the": -3.0, "ab": -4.0, "ba": -4.1, "aba": -5.0, "aa": -4.5, "▁▁": -3.0}
    letters = {c: -6.0 - i / 100 for i, c in enumerate("abcdefghijklmnopqrstuvwxyz\n.,🦙")}
    tokenizer = Tokenizer(models.Unigram([("<unk>", -20.0), *{**whole, **letters}.items()], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)


def write_bytes(folder: Path) -> None:
    write_tokenizer(folder, eos=True)


TOKENIZERS: dict[str, Callable[[Path], Any] | Path] = {
    "bytes": write_bytes,
    "digit groups": write_digit_groups,
    "word pieces": write_word_pieces,
    "unigram": write_unigram,
    "tiny-world": Path(harness.__file__).parent / "builtin" / "tiny-world" / "model",
    "gpt2": REAL / "models" / "gpt2-tokenizer",
    "stories260K": REAL / "models" / "stories260K-hf",
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    source = TOKENIZERS[request.param]
    if isinstance(source, Path):
        if not source.exists():
            pytest.skip("HARNESS_REAL_DATA names no folder with models/ and data/")
        return AutoTokenizer.from_pretrained(source)
    source(folder := tmp_path_factory.mktemp("tokenizer"))
    return AutoTokenizer.from_pretrained(folder)


def make_prose(characters: int) -> str:
    """Words, numbers, punctuation and line ends as they come, the same each time."""
    random = Random(0)
    words = [
        "the",
        "aba",
        "naïve",
        "🦙",
        "It's",
        "don't",
        "1234567",
        "\r\n",
        "\n\n",
        "  ",
        "—",
        "x",
    ]
    return "".join(
        random.choice(words) + random.choice([" ", " ", ", ", ".\n", ""])
        for _ in range(characters // 4)
    )[:characters]


PROSE = make_prose(3000)
TEXTS = {
    "prose": PROSE,
    "spaces first and last": " " * 700 + PROSE[:900] + " " * 700,
    "spaces within": PROSE[:800] + " " * 900 + PROSE[:800],
    "spaces alone": " " * 2500,
    "line ends": "one\n\n\n" * 300 + "\n" * 900 + PROSE[:500],
    "CRLF": "one two\r\n" * 250 + "\r\n" * 300,
    "emoji": "🦙👩‍👩‍👧‍👦🇩🇪é" * 200,
    "no spaces": "abracadabra" * 250,
    "one letter": "a" * 2500,
    "digits": PROSE[:500] + "".join(str(n % 7) for n in range(1500)) + PROSE[:500],
    "special tokens": "the <s> aba</s>\n<|endoftext|> x [SEP] " * 80,
}


SIZES = [(256, 64, 8), (500, 33, 8), (999, 200, 64)]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("piece", "overlap", "agree"), [(256, 64, 8), (500, 33, 8), (999, 200, 64)]
)
def test_the_pieces_of_a_text_have_the_tokens_of_the_whole(
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    piece: int,
    overlap: int,
    agree: int,
) -> None:
    text = TEXTS[name]
    ids, ends = encode_with_byte_ends(tokenizer, text)
    assert ids.tolist() == tokenizer(text)["input_ids"]
    set_pieces(monkeypatch, piece, overlap, agree)
    found_ids, found_ends = encode_with_byte_ends(tokenizer, text)
    assert np.array_equal(found_ids, ids)
    assert np.array_equal(found_ends, ends)
    assert (found_ids.dtype, found_ends.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("beyond", [-1, 0, 1, 2])
def test_a_text_of_about_one_piece(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    text = PROSE[: 600 + beyond]
    ids, ends = encode_with_byte_ends(tokenizer, text)
    set_pieces(monkeypatch, 600, 100, 8)
    found_ids, found_ends = encode_with_byte_ends(tokenizer, text)
    assert np.array_equal(found_ids, ids)
    assert np.array_equal(found_ends, ends)


def set_pieces(monkeypatch: pytest.MonkeyPatch, piece: int, overlap: int, agree: int) -> None:
    monkeypatch.setattr(_tokenised, "_PIECE", piece)
    monkeypatch.setattr(_tokenised, "_OVERLAP", overlap)
    monkeypatch.setattr(_tokenised, "_AGREE", agree)


class Counting:
    """A tokenizer that knows how long the texts were that it was given."""

    is_fast = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.given: list[int] = []

    def __call__(self, text: str, **options: Any) -> Any:
        self.given.append(len(text))
        return self.tokenizer(text, **options)


def test_a_tokenizer_never_sees_more_than_a_piece(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_pieces(monkeypatch, 400, 100, 16)
    counting = Counting(tokenizer)
    encode_with_byte_ends(counting, PROSE)
    steps = -(-(len(PROSE) - 400) // 300)  # each piece begins 100 characters before the last's end
    assert counting.given == [400] * steps + [len(PROSE) - 300 * steps]


def test_tokens_that_share_a_character_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four tokens to each 🦙: pieces agree at once where the n-th is compared with the n-th."""
    write_tokenizer(tmp_path)
    counting = Counting(AutoTokenizer.from_pretrained(tmp_path))
    set_pieces(monkeypatch, 100, 20, 64)
    ids, ends = encode_with_byte_ends(counting, "🦙" * 260)
    assert counting.given == [100, 100, 100]
    assert len(ids) == 1 + 4 * 260
    assert ends.tolist() == [0, *(4 * n for n in range(1, 261) for _ in range(4))]


def make_piece(start: int, tokens: list[tuple[int, int, int]]) -> _tokenised._Piece:
    """Tokens as id, start and stop in an ASCII text."""
    ids, starts, stops = np.array(tokens).T
    return _tokenised._Piece(start, int(stops[-1]), start, ids, starts, stops, stops)


def letters(start: int, stop: int, wrong: tuple[int, ...] = ()) -> list[tuple[int, int, int]]:
    """A token per character, those at ``wrong`` with another id."""
    return [(1000 + i if i in wrong else i, i, i + 1) for i in range(start, stop)]


def test_pieces_are_cut_in_the_middle_of_the_longest_run_they_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_tokenised, "_AGREE", 4)
    left, right = make_piece(0, letters(0, 40)), make_piece(20, letters(20, 60, (20, 25, 35)))
    assert _tokenised._find_joint(left, 0, right) == (30, 10)  # 21 to 24, 26 to 34, 36 to 39
    assert _tokenised._find_joint(left, 31, right) == (33, 13)  # 31 to 34, as long as the last


@pytest.mark.parametrize(("shared", "joint"), [(3, None), (4, (22, 2))])
def test_a_run_too_short_joins_nothing(
    monkeypatch: pytest.MonkeyPatch, shared: int, joint: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(_tokenised, "_AGREE", 4)
    wrong = tuple(range(20 + shared, 40))
    left, right = make_piece(0, letters(0, 40)), make_piece(20, letters(20, 60, wrong))
    assert _tokenised._find_joint(left, 0, right) == joint


def test_tokens_that_stop_elsewhere_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tokenised, "_AGREE", 4)
    longer = [(i, start, stop + 1) for i, start, stop in letters(20, 60)]
    left = make_piece(0, letters(0, 40))
    assert _tokenised._find_joint(left, 0, make_piece(20, longer)) is None


def test_a_token_more_in_between_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tokenised, "_AGREE", 4)
    doubled = [token for at in letters(20, 60) for token in (at, (7, at[1], at[2]))]
    left = make_piece(0, letters(0, 40))
    assert _tokenised._find_joint(left, 0, make_piece(20, doubled)) is None


def test_a_stretch_where_pieces_do_not_agree_widens_the_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word too long to be known, at the end of a piece: it starts far enough from there."""
    write_word_pieces(tmp_path)
    counting = Counting(AutoTokenizer.from_pretrained(tmp_path))
    text = "ab " * 300 + "x" * 150 + " ab" * 300
    wanted, _ = encode_with_byte_ends(counting, text)
    set_pieces(monkeypatch, 1000, 100, 16)
    counting.given.clear()
    found, _ = encode_with_byte_ends(counting, text)
    assert np.array_equal(found, wanted)
    assert counting.given == [1000, 1000, 1000, len(text) - 600 - 900]


def test_where_no_pieces_agree_the_text_is_taken_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word, one unknown: wherever a piece ends it lies across."""
    write_word_pieces(tmp_path)
    counting = Counting(AutoTokenizer.from_pretrained(tmp_path))
    set_pieces(monkeypatch, 1000, 100, 16)
    found, ends = encode_with_byte_ends(counting, "x" * 3000)
    assert (found.tolist(), ends.tolist()) == ([1, 0, 2], [0, 3000, 3000])
    assert counting.given == [1000, 1000, 1000, 3000]


@pytest.mark.skipif(
    not os.environ.get("HARNESS_REAL_DATA"),
    reason="HARNESS_REAL_DATA names no folder with models/ and data/",
)
def test_wikitext_2_in_pieces_has_the_tokens_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS["gpt2"])
    text = (REAL / "data" / "wikitext2" / "wiki.test.raw").read_text()
    assert len(text) > 4 * _tokenised._PIECE
    ids, ends = encode_with_byte_ends(tokenizer, text)
    monkeypatch.setattr(_tokenised, "_PIECE", len(text))
    whole_ids, whole_ends = encode_with_byte_ends(tokenizer, text)
    assert np.array_equal(ids, whole_ids)
    assert np.array_equal(ends, whole_ends)
    assert ends[-1] == len(text.encode())


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


@pytest.mark.parametrize("library", ["tokenizers", "transformers"])
def test_another_version_of_a_library_that_tokenises_is_not_trusted_to_do_the_same(
    folder: Path, tokenised: list[str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    read(load(folder / "model"), folder)
    # transformers replaces its module while it is imported: a name imported here may be another's.
    monkeypatch.setattr(sys.modules[library], "__version__", "0.0.0")
    read(load(folder / "model"), folder)
    assert tokenised == [TEXT, TEXT]
    assert len(kept_files(folder)) == 2


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
