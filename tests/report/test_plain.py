"""Text of data and models made harmless to show."""

from __future__ import annotations

import pytest

from harness.report.plain import CUT, clean, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\x07", r"a\x1b[2Jb\x07"),
        ("a\tb\r\nc\u2028d\xa0e", "a b \nc d e"),
        ("user\u202enimda", r"user\u202enimda"),
        ("half \ud83d", r"half \ud83d"),
        ("می\u200cخواهم 👩\u200d🔬 日本", "می\u200cخواهم 👩\u200d🔬 日本"),
    ],
)
def test_nothing_a_terminal_would_act_on_is_left(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_long_texts_lose_their_middle() -> None:
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("abcde fghij klmno", 10) == f"abcde{CUT}klmno"
