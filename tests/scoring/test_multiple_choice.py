"""multiple_choice: the log-likelihood of each option, against a computation of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engines.base import Engine
from harness.errors import InputError
from harness.records.questions import Question
from harness.scoring.multiple_choice import Scored, score_questions
from harness.scoring.prompts import prompt_protocol, render_prompt
from tests.support.cells_in_process import (
    load,
    make_context,
    write_checkpoint,
    write_llama,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(write_checkpoint(tmp_path_factory.mktemp("choice") / "model"))


def ask(prompt: str, *options: str, answer: int = 0) -> Question:
    """Options with the delimiter they are given with."""
    return Question("q", "s", prompt, options, answer, delimiter="")


LETTERS = tuple(f" {letter}" for letter in "ABCD")
QUESTIONS = [
    ask("Answer:", *LETTERS),
    ask("The llama 🦙 is an animal. True or false?\nAnswer:", *LETTERS, answer=2),
    ask("A llama", " eats grass", " eats", " é", " flies to the moon"),  # tokens per option differ
    ask("A llama", " eats", " A"),
    ask("x" * 90, " A", " BB"),
    ask("Answer:", *LETTERS),
]


def score(cell: Engine, questions: list[Question], batch_tokens: int = 4096) -> list[Scored]:
    return score_questions(cell, questions, batch_tokens, make_context(Path("/")))[0]


def log_likelihood(cell: Engine, prompt: str, option: str) -> float:
    """One option alone: the sum of the log-softmax of its tokens, in float64."""
    tokenizer: Any = cell.require_tokenizer()
    start = len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(prompt + option)["input_ids"]
    with torch.no_grad():
        logits = cell.model(torch.tensor([ids])).logits[0].double()
    scores = torch.log_softmax(logits, -1)
    return sum(float(scores[i - 1, ids[i]]) for i in range(start, len(ids)))


def test_log_likelihoods_equal_those_of_each_option_alone(cell: Engine) -> None:
    for question, scored in zip(QUESTIONS, score(cell, QUESTIONS), strict=True):
        expected = [log_likelihood(cell, question.prompt, option) for option in question.options]
        assert scored.question is question
        assert scored.log_likelihoods == pytest.approx(expected, abs=1e-5)
        assert scored.chosen == expected.index(max(expected))


@pytest.mark.parametrize("batch_tokens", [1, 100, 250, 100_000])
def test_the_size_of_a_batch_changes_no_answer(cell: Engine, batch_tokens: int) -> None:
    alone = [score(cell, [question])[0] for question in QUESTIONS]
    together = score(cell, QUESTIONS, batch_tokens)
    for one, other in zip(alone, together, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-5)
        assert one.chosen == other.chosen


def test_progress_counts_each_distinct_row_once(cell: Engine) -> None:
    """Four letters share one row; a question asked twice is computed once."""
    seen: list[tuple[int, int, str]] = []
    context = replace(make_context(Path("/")), progress=lambda *given: seen.append(given))
    score_questions(cell, [QUESTIONS[0], QUESTIONS[5], QUESTIONS[1]], 1, context)
    assert seen[-1] == (2, 2, "prompts")
    assert {done for done, _, _ in seen} <= {0, 1, 2}


def test_a_prompt_as_long_as_the_model_is_scored_and_one_token_longer_is_not(
    cell: Engine,
) -> None:
    """256 tokens of context: BOS and 255 bytes; the option's last token is only predicted."""
    fits, over = ask("x" * 255, *LETTERS), ask("x" * 256, *LETTERS)
    one_option_over = ask("x" * 255, " A", " AB")
    scored = score(cell, [over, fits, one_option_over])
    assert [s.log_likelihoods is None for s in scored] == [True, False, True]
    assert [s.chosen is None for s in scored] == [True, False, True]
    assert not scored[0].right
    assert not scored[0].tied
    expected = log_likelihood(cell, "x" * 255, " A")
    assert scored[1].log_likelihoods[0] == pytest.approx(expected, abs=1e-5)


def test_an_appended_end_of_text_token_is_neither_prompt_nor_option(
    cell: Engine, tmp_path: Path
) -> None:
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", eos=True)
    with_eos = score(load(tmp_path / "model"), QUESTIONS)
    for one, other in zip(with_eos, score(cell, QUESTIONS), strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-5)


def test_an_option_without_a_token_of_its_own_is_refused(cell: Engine) -> None:
    with pytest.raises(InputError, match="q: option '' adds no token to its prompt"):
        score(cell, [ask("Answer:", " A", "")])


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_checkpoint(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="q: the model's log-likelihoods are not finite"):
        score(load(tmp_path / "model"), [ask("Answer:", *LETTERS)])


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    cell = load(write_llama(tmp_path / "model"))
    with pytest.raises(InputError, match="model 'm' has no tokenizer: set `tokenizer:`"):
        score(cell, QUESTIONS)


def test_spaces_that_end_a_prompt_belong_to_the_option(cell: Engine) -> None:
    """As in lm-evaluation-harness: 'Answer: ' + 'A' has the tokens of 'Answer:' + ' A'."""
    kept = score(cell, [ask("Answer: ", "A", "B")])[0]
    moved = score(cell, [ask("Answer:", " A", " B")])[0]
    assert kept.log_likelihoods == pytest.approx(moved.log_likelihoods, abs=1e-6)


def test_an_empty_prompt_starts_from_the_beginning_of_text(cell: Engine) -> None:
    tokenizer: Any = cell.require_tokenizer()
    ids = [tokenizer.bos_token_id, *tokenizer("llama", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        scores = torch.log_softmax(cell.model(torch.tensor([ids])).logits[0].double(), -1)
    expected = sum(float(scores[i - 1, ids[i]]) for i in range(1, len(ids)))
    found = score(cell, [ask("", "llama", "x")])[0].log_likelihoods
    assert found is not None
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_each_option_may_follow_a_prompt_of_its_own(cell: Engine) -> None:
    prompts = ("The cat because the cat", "The cat because the big dog")
    question = Question("q", "s", "", ("was hungry",) * 2, 0, prompts=prompts)
    expected = [log_likelihood(cell, prompt, " was hungry") for prompt in prompts]
    assert score(cell, [question])[0].log_likelihoods == pytest.approx(expected, abs=1e-5)


def test_options_that_greedy_decoding_would_give_are_marked(cell: Engine) -> None:
    tokenizer: Any = cell.require_tokenizer()
    for prompt in (f"A llama {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"):
        with torch.no_grad():
            logits = cell.model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1]
        best = int(logits.argmax())
        text = tokenizer.decode([best])
        if tokenizer(text, add_special_tokens=False)["input_ids"] == [best]:
            break  # a letter: most of this tokenizer's tokens are half a character
    found = score(cell, [ask(prompt, text, "+" if text != "+" else "-")])[0]
    assert found.greedy == (True, False)


def test_the_length_of_an_option_decides_when_it_is_divided_by() -> None:
    """-3 for one character against -4 for four: the second is likelier per character."""
    scored = Scored(Question("q", "s", "?", ("a", "abcd"), 1), (-3.0, -4.0))
    assert (scored.chosen, scored.chosen_norm) == (0, 1)
    assert (scored.right, scored.right_norm) == (False, True)


def test_a_chat_template_opens_the_assistants_turn_and_is_recorded(
    cell: Engine, tmp_path: Path
) -> None:
    """No space between the opened turn and the option, no second beginning-of-text token."""
    write_checkpoint(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(
        "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    )
    chat = load(tmp_path / "model", chat_template=True)
    found = score(chat, [ask("Answer?", " A", " B")])[0]
    tokenizer: Any = cell.require_tokenizer()
    prompt = tokenizer("<s>[user]Answer?[assistant]", add_special_tokens=False)["input_ids"]
    assert prompt[0] == tokenizer.bos_token_id
    ids = [*prompt, *tokenizer(" A", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        scores = torch.log_softmax(chat.model(torch.tensor([ids])).logits[0].double(), -1)
    expected = float(scores[len(prompt) - 1, ids[-1]])
    assert found.log_likelihoods is not None
    assert found.log_likelihoods[0] == pytest.approx(expected, abs=1e-5)
    assert prompt_protocol(chat)["chat_template_sha256"]
    assert prompt_protocol(cell) == {"chat_template_sha256": None}


def test_a_template_that_writes_the_date_gets_the_same_date_every_day(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(
        "  {{ strftime_now('%d %b %Y') }}, {{ date_string }}: {{ messages[0].content }}"
    )
    chat = load(tmp_path / "model", chat_template=True)
    assert render_prompt(chat, "Hello") == "  26 Jul 2024, 26 Jul 2024: Hello"
    assert prompt_protocol(chat)["chat_template_date"] == "26 Jul 2024"


def test_a_model_without_a_chat_template_cannot_be_asked_in_it(tmp_path: Path) -> None:
    chat = load(write_checkpoint(tmp_path / "model"), chat_template=True)
    with pytest.raises(InputError, match="its tokenizer has no chat template"):
        score(chat, QUESTIONS)


@pytest.mark.parametrize(
    ("scores", "tied"),
    [
        ((-1.0, -1.0 - 0.999e-3, -5.0), True),
        ((-1.0, -1.0 - 1.001e-3, -5.0), False),
        ((-5.0, -1.0, -1.0), True),
        ((-5.0, -5.0, -1.0), False),  # only the two best matter
        ((-1.0,), False),
        (None, False),
    ],
)
def test_the_two_best_within_a_thousandth_are_a_tie(scores: Any, tied: bool) -> None:
    assert Scored(ask("?", *LETTERS), scores).tied is tied


def test_the_first_of_equals_is_chosen() -> None:
    assert Scored(ask("?", *LETTERS, answer=1), (-3.0, -1.0, -1.0, -2.0)).chosen == 1
    assert Scored(ask("?", *LETTERS, answer=1), (-3.0, -1.0, -1.0, -2.0)).right
    assert not Scored(ask("?", *LETTERS, answer=2), (-3.0, -1.0, -1.0, -2.0)).right
