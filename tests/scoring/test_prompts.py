"""Token ids of prompts that begin alike: the same as of each one whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.scoring.prompts import encode_all
from tests.engines.test_prefix_check import BUILTIN

LEAD = "The quick brown fox jumps over the lazy dog; 3.14 is no number of foxes.\n" * 20
TEXTS = [f"{LEAD}Question {i}: what is {i} + {i}?\nAnswer: {2 * i}" for i in range(12)]


def encode(texts: list[str], tokenizer: Any) -> tuple[dict[str, list[int]], int]:
    """The ids, and the characters that went through the tokenizer."""
    seen: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, given: Any, **options: Any) -> Any:
            seen.append(len(given) if isinstance(given, str) else sum(map(len, given)))
            return tokenizer(given, **options)

    engine = SimpleNamespace(require_tokenizer=lambda: Counting())
    return encode_all(engine, texts), sum(seen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BUILTIN)


def whole(texts: list[str], tokenizer: Any) -> dict[str, list[int]]:
    return {text: tokenizer(text)["input_ids"] for text in texts}


def test_what_many_texts_begin_with_is_tokenised_once(tokenizer: Any) -> None:
    found, characters = encode(TEXTS, tokenizer)
    assert found == whole(TEXTS, tokenizer)
    assert characters < sum(map(len, TEXTS)) / 2


@pytest.mark.parametrize(
    "texts",
    [
        [LEAD + "." * i for i in range(1, 12)],  # the last token before the difference varies
        [LEAD + "." * 300 + "x" * i for i in range(12)],  # no word ends where they begin to differ
        ["a" * 3000 + str(i) for i in range(12)],  # one word
        [LEAD[: 1000 + i] for i in range(80)],  # each begins the next
        TEXTS[:3],
        ["", " ", "\n"],
    ],
)
def test_others_come_out_as_they_are_whole_too(texts: list[str], tokenizer: Any) -> None:
    assert encode(texts, tokenizer)[0] == whole(texts, tokenizer)


def test_a_tokenizer_that_looks_far_back_is_found_out(tokenizer: Any) -> None:
    """Its ids depend on the length of what it is given: pieces are not what the whole is."""

    class FarSighted:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, given: Any, **options: Any) -> Any:
            encoded = tokenizer(given, **options)
            if not isinstance(given, str):
                encoded["input_ids"] = [
                    [x + len(text) for x in ids]
                    for ids, text in zip(encoded["input_ids"], given, strict=True)
                ]
            return encoded

    far = FarSighted()
    expected = dict(zip(TEXTS, far(TEXTS)["input_ids"], strict=True))
    assert encode(TEXTS, far)[0] == expected
