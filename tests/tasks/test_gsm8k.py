"""gsm8k: prompts, filters and scores as lm-evaluation-harness has them; items read and refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.descriptions import MeasureContext
from harness.engines.base import Answer, Engine
from harness.errors import InputError
from harness.records.record import Measured, Record
from harness.scoring.answers import Answers
from harness.suite.data_source import DataSource
from harness.tasks.generative_task import Problem, load_problems, score_answers
from harness.tasks.gsm8k import RULES, TASK, Options, find_flexible, find_strict, make_problem
from tests.support.cells_in_process import load as load_cell
from tests.support.cells_in_process import make_context, write_checkpoint
from tests.support.records import make_record

REAL = Path(os.environ.get("HARNESS_REAL_DATA") or "/nowhere").resolve()
# Text, published answer, what strict-match and flexible-extract find in the text, and whether that
# is right, as lm-evaluation-harness 0.4.13 scores it (its filters, then its exact_match).
READ = [
    ("She has 1,234.\n#### 1,234.", "12\n#### 1234", "1,234.", "1,234.", True, True),
    ("It costs $5.00", "#### 5", None, "$5.00", False, False),
    ("It costs $5.", "a\n#### 5", None, "$5.", False, True),
    ("#### -3", "#### -3", "-3", "-3", True, True),
    ("minus -3 degrees", "#### -3", None, "-3", False, True),
    ("no number at all", "#### 3", None, None, False, False),
    ("and so on...", "#### 3", None, "...", False, False),
    ("#### 7 and #### 8", "#### 7", "7", "8", True, False),
    ("####7", "#### 7", None, "7", False, True),
    ("#### $20", "#### 20", None, "$20", False, True),
    ("So 3 x 4 = 12", "#### 12", None, "12", False, True),
    ("18.", "#### 18", None, "18.", False, True),
    ("#### 18.0", "#### 18", "18.0", "18.0", False, False),
    ("#### 1.", "#### 1", "1.", "1.", True, True),
    ("", "#### 0", None, None, False, False),
    ("x=5%", "#### 5", None, "5", False, True),
    ("3/4", "#### 4", None, "4", False, True),
    ("1, 2, 3", "#### 3", None, "3", False, True),
    ("#### 10,000", "x #### 10,000", "10,000", "10,000", True, True),
    ("####  9", "#### 9", None, "9", False, True),
    ("#### -$4", "#### -4", None, "-$4", False, True),
    ("2-3", "#### 3", None, "-3", False, False),
    ("7 $", "#### 7", None, "7", False, True),
]

# What lm-evaluation-harness 0.4.13 draws for the first questions: three of twelve examples.
DRAWN = ((7, 1, 0), (1, 9, 0))


def make_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {"question": f"How many is {number}?", "answer": f"Count.\n#### {number}"}
    return {k: v for k, v in {**row, **changes}.items() if v is not ...}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def options(data: str, **given: Any) -> Options:
    if isinstance(given.get("examples"), str):
        given["examples"] = DataSource(path=given["examples"])
    return Options(**{"data": DataSource(path=data), "shots": 0, **given})


def load(given: Options, context: MeasureContext) -> list[Problem]:
    return load_problems(given, context, make_problem)


def problem(answer: str, prompt: str = "p") -> Problem:
    return Problem(prompt, answer, "")


def answer(text: str, stopped: Any = "stop", tokens: int = 5) -> Answer:
    return Answer(tuple(range(tokens)), text, stopped)


# Filters and scores


@pytest.mark.parametrize(("text", "published", "strict", "flexible", "by", "loosely"), READ)
def test_numbers_are_found_and_compared_as_lm_evaluation_harness_does(
    text: str, published: str, strict: str | None, flexible: str | None, by: bool, loosely: bool
) -> None:
    assert find_strict(text) == strict
    assert find_flexible(text) == flexible
    generation = Answers((answer(text),), 4096)
    _, items = score_answers([problem(published)], generation, RULES)
    assert (items["right"], items["right_flexible"]) == (str(int(by)), str(int(loosely)))
    assert (items["answers"], items["answers_flexible"]) == ([strict], [flexible])


def test_values_are_shares_of_the_answered_items() -> None:
    given = [t for t in READ if t[0]]
    problems = [problem(t[1]) for t in given] + [problem("#### 1")]
    generation = Answers((*(answer(t[0]) for t in given), None), 4096)
    values, items = score_answers(problems, generation, RULES)
    right, loosely = sum(t[4] for t in given), sum(t[5] for t in given)
    assert len(given) == 22
    strict, flexible = values["exact_match"], values["exact_match_flexible"]
    assert (strict.value, strict.n) == (pytest.approx(right / 22), 22)
    assert (flexible.value, flexible.n) == (pytest.approx(loosely / 22), 22)
    assert strict.stderr == pytest.approx((right / 22 * (1 - right / 22) / 21) ** 0.5)
    assert items["right"][-1] == items["right_flexible"][-1] == items["stopped"][-1] == "-"
    assert items["texts"][-1] is None
    counts = {name: values[name].value for name in ("items", "too_long", "no_answer")}
    # 'no number at all' and 'and so on...', in which the filter finds only dots.
    assert counts == {"items": 22, "too_long": 1, "no_answer": 2}


def test_answers_that_were_cut_off_are_counted_and_long_ones_shortened_for_reading() -> None:
    text = "a" * 100 + "b" * 100
    problems = [problem("#### 1")] * 3
    answers = (answer(text, "length", 7), answer("x" * 160, "eos", 2), answer("#### 1", "stop", 1))
    values, items = score_answers(problems, Answers(answers, 64), RULES)
    assert (values["unfinished"].value, values["new_tokens"].value) == (1, 10)
    assert items["stopped"] == "les"
    assert items["texts"] == ["a" * 40 + " … " + "a" * 20 + "b" * 100, "x" * 160, "#### 1"]
    assert items["cost"] == {"batch_tokens": 64}


# Prompts


def test_a_prompt_is_the_question_behind_drawn_examples(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "test.jsonl", [make_row(n) for n in (50, 51)])
    examples = write_rows(tmp_path / "train.jsonl", [make_row(n) for n in range(12)])
    problems = load(options(data, examples=examples, shots=3), make_context(tmp_path))
    for found, drawn, asked in zip(problems, DRAWN, (50, 51), strict=True):
        shown = "".join(f"Question: How many is {n}?\nAnswer: Count.\n#### {n}\n\n" for n in drawn)
        assert found == Problem(
            f"{shown}Question: How many is {asked}?\nAnswer:",
            f"Count.\n#### {asked}",
            f"How many is {asked}?",
        )


def test_without_shots_there_is_the_question_alone_and_limit_keeps_the_first(
    tmp_path: Path,
) -> None:
    data = write_rows(tmp_path / "test.jsonl", [make_row(n) for n in range(3)])
    problems = load(options(data, limit=2), make_context(tmp_path))
    assert [p.prompt for p in problems] == [
        "Question: How many is 0?\nAnswer:",
        "Question: How many is 1?\nAnswer:",
    ]


def test_no_question_is_among_its_own_examples(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "all.jsonl", [make_row(n) for n in range(4)])
    problems = load(options(rows, examples=rows, shots=3), make_context(tmp_path))
    for n, one in enumerate(problems):
        assert one.prompt.count(f"How many is {n}?") == 1
        assert one.prompt.count("Question:") == 4
    with pytest.raises(InputError, match=r"there are 3 examples besides this question, 4 shots"):
        load(options(rows, examples=rows, shots=4), make_context(tmp_path))


# Bad input


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": ...}, r"test\.jsonl, row 2: .*field 'question'"),
        ({"question": " "}, r"test\.jsonl, row 2: field 'question' is empty"),
        ({"question": None}, r"test\.jsonl, row 2: field 'question' is missing"),
        ({"answer": ...}, r"test\.jsonl, row 2: .*field 'answer'"),
        ({"answer": ["#### 2"]}, r"test\.jsonl, row 2: field 'answer' holds .*expected a text"),
        ({"answer": "It is 2."}, r"test\.jsonl, row 2: answer 'It is 2\.' has no line '#### num"),
        ({"answer": "#### ."}, r"row 2: answer '#### \.' has no line '#### number'"),
        (
            {"question": "How many is 1?"},
            r"test\.jsonl, row 2: the same question as in test\.jsonl, row 1; each item",
        ),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    data = write_rows(tmp_path / "test.jsonl", [make_row(1), make_row(2, **row)])
    with pytest.raises(InputError, match=message):
        load(options(data), make_context(tmp_path))


def test_a_local_file_with_shots_needs_examples(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "test.jsonl", [make_row(1)])
    with pytest.raises(
        InputError, match=r"5 shots were asked for, and 'test\.jsonl' is a file of questions.*`shot"
    ):
        load(options(data, shots=5), make_context(tmp_path))


def test_as_many_examples_as_shots_are_needed(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "test.jsonl", [make_row(1)])
    examples = write_rows(tmp_path / "train.jsonl", [make_row(n) for n in (2, 3)])
    assert load(options(data, examples=examples, shots=2), make_context(tmp_path))
    with pytest.raises(InputError, match=r"'train\.jsonl' has 2 examples, 3 shots were asked for"):
        load(options(data, examples=examples, shots=3), make_context(tmp_path))


# Measured


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load_cell(write_checkpoint(tmp_path_factory.mktemp("gsm8k") / "model", seed=5))


def run(cell: Engine, folder: Path, **given: Any) -> Measured:
    data = write_rows(folder / "test.jsonl", [make_row(n) for n in (1, 20, 300)])
    settings = {"max_new_tokens": 8, **given}
    return TASK.measure(cell, options(data, **settings), make_context(folder))


def test_a_real_model_is_asked_and_its_answers_are_kept(cell: Engine, tmp_path: Path) -> None:
    measured = run(cell, tmp_path)
    assert set(measured.values) == {name for name, spec in TASK.values.items() if not spec.paired}
    assert measured.values["items"].value == 3
    assert measured.values["new_tokens"].value == 24
    assert measured.items["stopped"] == "lll"
    assert all(measured.items["texts"])
    assert measured.validity.status == "flagged"  # random words, cut off: no zero to be trusted
    assert "3 of 3 answers were cut off" in measured.validity.reasons
    batched = run(cell, tmp_path, batch_tokens=1)
    assert measured.items["texts"] == batched.items["texts"]
    assert measured.protocol == batched.protocol
    assert (
        measured.protocol["items_sha256"] != run(cell, tmp_path, limit=2).protocol["items_sha256"]
    )


def test_prompts_without_room_are_flagged(cell: Engine, tmp_path: Path) -> None:
    """33, 34 and 35 tokens of 256: with 222 new ones the third is one too many."""
    measured = run(cell, tmp_path, max_new_tokens=222)
    assert measured.values["too_long"].value == 1
    assert measured.items["right"][2] == "-"
    assert measured.validity.status == "flagged"
    assert "1 prompts exceed the model's context; not answered" in measured.validity.reasons


def test_the_same_items_are_compared_for_both_ways_of_reading() -> None:
    def record(right: str, flexible: str, answers: list[str | None], precision: str) -> Record:
        items = {"right": right, "right_flexible": flexible, "answers": answers}
        return make_record("gsm8k", precision, items=items)

    reference = record("1110-", "1111-", ["1,000.", "2", "3", "9", None], "fp32")
    candidate = record("10011", "11111", ["1000", "5", None, "4", "5"], "nf4")
    found = TASK.compare(candidate, reference)
    assert set(found) == {name for name, spec in TASK.values.items() if spec.paired}
    assert {name: value.value for name, value in found.items()} == {
        "accuracy_drop": 0.25,
        "retention": pytest.approx(2 / 3),
        "flip_rate": 0.75,
        "answer_change_rate": 0.75,
        "right_to_wrong": 2,
        "wrong_to_right": 1,
        "accuracy_flexible_drop": 0.0,
        "retention_flexible": 1.0,
    }
    assert found["accuracy_drop"].n == 4
    # sqrt((f - D**2) / n)
    assert found["accuracy_drop"].stderr == pytest.approx(((0.75 - 0.25**2) / 4) ** 0.5)
    assert TASK.compare(make_record("gsm8k", "nf4"), reference) == {}


def test_the_headline_is_the_strict_share_and_what_is_lost_of_it() -> None:
    assert [column.value for column in TASK.headline] == ["exact_match", "accuracy_drop"]
    assert {column.value for column in TASK.headline} <= set(TASK.values)


@pytest.mark.skipif(
    not os.environ.get("HARNESS_REAL_DATA"),
    reason="HARNESS_REAL_DATA names no folder with models/ and data/",
)
def test_the_published_items_are_read_and_their_own_answers_are_right() -> None:
    path = str(REAL / "data" / "gsm8k" / "test_200.jsonl")
    problems = load(options(path, examples=path, shots=5), make_context(Path("/")))
    assert len(problems) == 200
    assert all(p.prompt.count("Question: ") == 6 for p in problems)
    published = Answers(tuple(answer(f" {p.answer}") for p in problems), 1)
    values, _ = score_answers(problems, published, RULES)
    assert values["exact_match"].value == values["exact_match_flexible"].value == 1.0
