"""Windows of every protocol: which tokens are fed, which are scored, listed at every edge."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.errors import InputError
from harness.metrics.text_windows import Window, plan_windows, start_token, step_of


def scored_tokens(windows: list[Window]) -> list[int]:
    return [token for w in windows for token in range(w.stop - w.scored, w.stop)]


@pytest.mark.parametrize("tokens", [2, 3, 7, 8, 9, 10, 11, 12, 13, 16, 17, 40])
@pytest.mark.parametrize("stride", [1, 3, 4, 7])
def test_sliding_scores_every_token_but_the_first_once(tokens: int, stride: int) -> None:
    windows = plan_windows(tokens, "sliding", 8, stride)
    assert scored_tokens(windows) == list(range(1, tokens))
    assert all(w.stop - w.start <= 8 and w.scored < w.stop - w.start for w in windows)


@pytest.mark.parametrize("tokens", [9, 12, 13, 40])
def test_sliding_gives_each_token_the_context_of_the_first_window_that_reaches_it(
    tokens: int,
) -> None:
    windows = plan_windows(tokens, "sliding", 8, 4)
    assert [w.start for w in windows] == [4 * i for i in range(len(windows))]
    assert all(w.stop - w.start == 8 for w in windows[:-1])
    assert windows[-1].stop == tokens


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (2, [Window(0, 2, 1)]),
        (7, [Window(0, 7, 6)]),
        (8, [Window(0, 8, 7)]),
        (9, [Window(0, 8, 7), Window(4, 9, 1)]),
        (12, [Window(0, 8, 7), Window(4, 12, 4)]),
        (13, [Window(0, 8, 7), Window(4, 12, 4), Window(8, 13, 1)]),
    ],
)
def test_sliding_at_the_edges(tokens: int, expected: list[Window]) -> None:
    assert plan_windows(tokens, "sliding", 8, 4) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (2, [Window(0, 2, 1)]),
        (7, [Window(0, 7, 6)]),
        (8, [Window(0, 8, 7)]),
        (9, [Window(0, 8, 7)]),  # a last window of one token has nothing to predict it from
        (10, [Window(0, 8, 7), Window(8, 10, 1)]),
        (16, [Window(0, 8, 7), Window(8, 16, 7)]),
        (17, [Window(0, 8, 7), Window(8, 16, 7)]),
    ],
)
def test_disjoint_at_the_edges(tokens: int, expected: list[Window]) -> None:
    assert plan_windows(tokens, "disjoint", 8) == expected


@pytest.mark.parametrize("tokens", [7, 8, 9, 10, 16, 17, 18])
def test_a_stride_of_the_whole_context_is_disjoint(tokens: int) -> None:
    assert plan_windows(tokens, "sliding", 8, 8) == plan_windows(tokens, "disjoint", 8)


@pytest.mark.parametrize(("context", "stride"), [(2, 1), (3, 1), (8, 4), (9, 4)])
def test_the_stride_is_half_the_context_unless_given(context: int, stride: int) -> None:
    assert plan_windows(50, "sliding", context) == plan_windows(50, "sliding", context, stride)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, [Window(0, 1, 1, before=90)]),
        (3, [Window(0, 3, 3, before=90)]),
        (4, [Window(0, 4, 4, before=90)]),
        (5, [Window(0, 4, 4, before=90), Window(0, 5, 1)]),
        (7, [Window(0, 4, 4, before=90), Window(2, 7, 3)]),
        (8, [Window(0, 4, 4, before=90), Window(3, 8, 4)]),
        (9, [Window(0, 4, 4, before=90), Window(3, 8, 4), Window(4, 9, 1)]),
    ],
)
def test_lm_eval_at_the_edges(tokens: int, expected: list[Window]) -> None:
    assert plan_windows(tokens, "lm-eval", 4, start_token=90) == expected


def test_lm_eval_windows_are_those_it_lists_itself() -> None:
    """Printed by lm-evaluation-harness 0.4.13 for tokens 0-9, prefix 90, maximum length 4."""
    expected = [
        ([90, 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]
    ids = list(range(10))
    found = []
    for window in plan_windows(10, "lm-eval", 4, start_token=90):
        sequence = window.sequence(ids)
        found.append((sequence[:-1], sequence[-window.scored :]))
    assert found == expected


@pytest.mark.parametrize("context", [2, 3, 8])
@pytest.mark.parametrize("tokens", range(1, 26))
def test_lm_eval_scores_every_token_once_from_at_most_the_context(
    tokens: int, context: int
) -> None:
    windows = plan_windows(tokens, "lm-eval", context, start_token=1)
    assert scored_tokens(windows) == list(range(tokens))
    assert [w.before for w in windows] == [1] + [None] * (len(windows) - 1)
    fed = [w.shape[0] - 1 for w in windows]
    assert fed == [min(context, tokens)] + [context] * (len(windows) - 1)


@pytest.mark.parametrize(
    ("tokens", "chunks"), [(0, 0), (8, 0), (15, 0), (16, 2), (17, 2), (23, 2), (24, 3)]
)
def test_llamacpp_takes_whole_chunks_and_two_at_least(tokens: int, chunks: int) -> None:
    """Of 8 tokens the fifth, at 8/2, is the first that predicts: the last three are scored."""
    expected = [Window(8 * i, 8 * i + 8, 3, first=1) for i in range(chunks)]
    assert plan_windows(tokens, "llamacpp", 8, start_token=1) == expected


@pytest.mark.parametrize(("context", "scored"), [(4, 1), (5, 2), (6, 2), (7, 3), (512, 255)])
def test_llamacpp_scores_the_second_half_of_a_chunk(context: int, scored: int) -> None:
    """n_ctx - 1 - n_ctx/2 of them, the division rounding down, as llama.cpp counts."""
    windows = plan_windows(2 * context, "llamacpp", context)
    assert [w.scored for w in windows] == [scored, scored]


def test_a_sequence_has_its_start_token_before_or_in_place_of_the_first() -> None:
    ids = list(range(10, 20))
    assert Window(2, 5, 1).sequence(ids) == [12, 13, 14]
    assert Window(2, 5, 1, before=0).sequence(ids) == [0, 12, 13, 14]
    assert Window(2, 5, 1, first=0).sequence(ids) == [0, 13, 14]
    assert ids[2] == 12
    assert Window(2, 5, 1).shape == Window(2, 5, 1, first=0).shape == (3, 1)
    assert Window(2, 5, 1, before=0).shape == (4, 1)


def test_the_step_is_the_context_where_windows_do_not_overlap() -> None:
    assert step_of("sliding", 9, 2) == 2
    assert step_of("sliding", 9, None) == 4
    assert {step_of(p, 9, None) for p in ("disjoint", "lm-eval", "llamacpp")} == {9}


def tokenizer(bos: int | None, eos: int | None) -> SimpleNamespace:
    return SimpleNamespace(bos_token_id=bos, eos_token_id=eos)


def test_lm_eval_starts_with_bos_else_eos() -> None:
    assert start_token("lm-eval", tokenizer(0, 2), 5) == 0
    assert start_token("lm-eval", tokenizer(None, 2), 5) == 2
    with pytest.raises(InputError, match="BOS or EOS, and the tokenizer has neither"):
        start_token("lm-eval", tokenizer(None, None), 5)


def test_llamacpp_starts_with_bos_where_the_tokenizer_puts_it_before_a_text() -> None:
    assert start_token("llamacpp", tokenizer(0, 2), 0) == 0
    assert start_token("llamacpp", tokenizer(0, 2), 5) is None
    assert start_token("llamacpp", tokenizer(None, 2), 5) is None


def test_the_other_protocols_have_no_start_token() -> None:
    assert start_token("sliding", tokenizer(0, 2), 0) is None
    assert start_token("disjoint", tokenizer(0, 2), 0) is None
