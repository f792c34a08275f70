"""choices: a user's own questions; every mistake in a file or template is one clear error."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.builtin import locate_builtin
from harness.engines.base import Engine
from harness.errors import InputError
from harness.records.record import Measured
from harness.suite.data_source import DataSource
from harness.suite.read import load_suite
from harness.tasks.choice_task import build_questions
from harness.tasks.choices import TASK, Options, make_question
from harness.tasks.rows import Row
from tests.support.cells_in_process import load, make_context, write_checkpoint

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own-questions"
ROW = {"q": "What?", "right": "yes", "wrong": "no", "options": ["yes", "no"], "answer": 0}


def options(**given: Any) -> Options:
    settings = {"data": "own.jsonl", "prompt": "Q: {q}\nA:", "options": "options"}
    return Options.model_validate({**settings, "answer": "answer", "answer_is": "index", **given})


def ask(row: dict[str, Any] | None = None, **given: Any) -> Any:
    return make_question(Row({**ROW, **(row or {})}, "own.jsonl, row 1"), options(**given))


def write(folder: Path, *rows: dict[str, Any], name: str = "own.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps({**ROW, **row}) + "\n" for row in rows))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(write_checkpoint(tmp_path_factory.mktemp("choices") / "model"))


def run(cell: Engine, folder: Path, *rows: dict[str, Any], **given: Any) -> Measured:
    write(folder, *rows)
    return TASK.measure(cell, options(**given), make_context(folder))


# Templates


def test_a_template_is_filled_with_the_fields_of_a_row() -> None:
    question = ask({"topic": "{q}", "n": 3}, prompt="{{{topic}}} {n}. {q}\nA:", delimiter="\t")
    assert question.prompt == "{{q}} 3. What?\nA:"
    assert question.delimiter == "\t"


def test_a_field_may_have_any_plain_name() -> None:
    assert ask({"the question-text": "Eh?"}, prompt="{the question-text}").prompt == "Eh?"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{q.__class__}", r"\{q\.__class__\} is not a plain field such as \{question\}"),
        ("{q[0]}", r"\{q\[0\]\} is not a plain field"),
        ("{q!r}", r"\{q!r\} is not a plain field"),
        ("{q:>10}", r"\{q:>10\} is not a plain field"),
        ("{q:{w}}", r"\{q:\{w\}\} is not a plain field"),
        ("{}", r"\{\} is not a plain field"),
        ("{ }", r"\{ \} is not a plain field"),
        ("{q", r"expected '}' before end of string in '\{q'; write \{\{ for a brace"),
        ("q}", r"Single '}' encountered in format string"),
        ("Question: q", r"no field such as \{question\} in 'Question: q'"),
        ("{{q}}", r"no field such as \{question\} in"),
        ("", "at least 1 character"),
    ],
)
def test_a_template_that_is_more_than_plain_fields_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(prompt=template)


def test_a_missing_field_is_reported_at_the_first_row_with_the_closest_name(
    cell: Engine, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError,
        match=r"own\.jsonl, row 1: unknown field 'questoin'; did you mean 'question'\? Known: ans",
    ):
        run(cell, tmp_path, {"question": "Eh?"}, prompt="{questoin}")


def test_shots_need_examples_before_anything_is_loaded() -> None:
    with pytest.raises(
        ValidationError, match="shots: 2 needs `examples:`, the file of the answere"
    ):
        options(shots=2)
    assert options(shots=2, examples="answered.jsonl").examples == DataSource(path="answered.jsonl")


# Options and answers


def test_options_are_a_list_or_fields() -> None:
    assert ask().options == ("yes", "no")
    assert ask(options=["wrong", "right"]).options == ("no", "yes")
    assert ask({"options": [1, 2]}).options == ("1", "2")


@pytest.mark.parametrize(
    ("row", "given", "index"),
    [
        ({"answer": 1}, {"answer_is": "index"}, 1),
        ({"answer": "1"}, {"answer_is": "index"}, 1),
        ({"answer": 2}, {"answer_is": "number"}, 1),
        ({"answer": "B"}, {}, 1),
        ({"answer": " b "}, {}, 1),
        ({"answer": "no"}, {}, 1),
        ({"answer": "yes "}, {}, 0),
        ({"options": ["1", "2", "0"], "answer": 2}, {"answer_is": "index"}, 2),
        ({"options": ["1", "2", "0"], "answer": "2"}, {"answer_is": "text"}, 1),
        ({"options": ["1", "2", "0"], "answer": "2"}, {"answer_is": "number"}, 1),
        ({"options": ["B", "A"], "answer": "A"}, {"answer_is": "letter"}, 0),
        ({"options": ["A", "B"], "answer": "A"}, {}, 0),  # letter and text agree
    ],
)
def test_an_answer_is_text_or_letter_and_a_number_as_the_suite_says(
    row: dict[str, Any], given: dict[str, Any], index: int
) -> None:
    assert ask(row, **{"answer_is": None, **given}).answer == index


OF_NONE = "which is the letter or text of none of its 2 options$"
GUESS: dict[str, Any] = {"answer_is": None}


@pytest.mark.parametrize(
    ("row", "given", "message"),
    [
        ({"answer": 1}, GUESS, "holds 1: set `answer_is: index` if .* `answer_is: number` if from"),
        ({"answer": "0"}, GUESS, "holds '0': set `answer_is: index` if answers count from 0"),
        ({"answer": -1}, GUESS, f"'answer' holds -1, {OF_NONE}"),
        ({"answer": "C"}, GUESS, f"'answer' holds 'C', {OF_NONE}"),
        ({"answer": "AB"}, GUESS, f"'answer' holds 'AB', {OF_NONE}"),
        ({"answer": ""}, GUESS, f"'answer' holds '', {OF_NONE}"),
        ({"answer": True}, GUESS, f"'answer' holds True, {OF_NONE}"),
        ({"answer": None}, GUESS, "field 'answer' is missing"),
        ({"answer": "maybe"}, GUESS, f"'answer' holds 'maybe', {OF_NONE}"),
        ({"answer": 2}, {}, "holds 2, which is the index of none of its 2 options$"),
        ({"answer": 0}, {"answer_is": "number"}, "which is the number of none of its 2 options$"),
        ({"answer": "yes"}, {"answer_is": "letter"}, "which is the letter of none of its 2 optio"),
        (
            {"options": ["B", "A"], "answer": "A"},
            GUESS,
            "the letter of one option and the text of another: set `answer_is:` to letter or te",
        ),
        ({}, {"answer": "anwser"}, r"unknown field 'anwser'; did you mean 'answer'\?"),
        ({}, {"options": "optoins"}, r"unknown field 'optoins'; did you mean 'options'\?"),
        ({}, {"options": ["right", "worng"]}, r"unknown field 'worng'; did you mean 'wrong'\?"),
        ({}, {"options": "q"}, "field 'q' holds 'What\\?', expected a list"),
        ({}, {"subject": "subjct"}, "unknown field 'subjct'"),
        ({"options": ["yes"]}, {}, "field 'options' gives 1 options, expected 2 to 26"),
        ({"options": []}, {}, "field 'options' gives 0 options, expected 2 to 26"),
        ({"options": [*map(str, range(27))]}, {}, "gives 27 options, expected 2 to 26"),
        ({"options": ["yes", ""]}, {}, "field 'options': option 2 is empty"),
        ({"options": ["yes", " "]}, {}, "field 'options': option 2 is empty"),
        ({"options": ["yes", None]}, {}, "field 'options', option 1 holds None, expected a text"),
        ({"options": ["a", "b", "a"]}, {}, "'options': options 1 and 3 are the same: 'a'"),
        ({"right": ""}, {"options": ["right", "wrong"]}, "'right', 'wrong': option 1 is empty"),
        ({"wrong": None}, {"options": ["right", "wrong"]}, "field 'wrong' is missing"),
        ({"q": ["a"]}, {}, r"field 'q' holds \['a'\], expected a text"),
        ({"q": " "}, {}, "field 'q' is empty"),
        ({"q": "", "hint": ""}, {"prompt": "{hint} {q}"}, "field 'hint', 'q' is empty"),
    ],
)
def test_a_malformed_row_is_named_by_file_row_and_field(
    row: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=r"^own\.jsonl, row 1: .*" + message):
        ask(row, **given)


def test_rows_may_lack_their_last_options_where_unequal_numbers_are_meant() -> None:
    names = ["right", "wrong", "third"]
    for empty in ("", None):
        row = {"third": empty}
        assert ask(row, options=names, unequal_options=True).options == ("yes", "no")
        with pytest.raises(InputError, match=r"option 3 is empty|field 'third' is missing"):
            ask(row, options=names)
    with pytest.raises(InputError, match="option 2 is empty"):
        ask({"wrong": "", "third": "x"}, options=names, unequal_options=True)


def test_unequal_numbers_of_options_are_refused_unless_meant(cell: Engine, tmp_path: Path) -> None:
    rows = [{}, {"options": ["yes", "no", "maybe"]}]
    with pytest.raises(
        InputError,
        match=r"own\.jsonl, row 2: 3 options, and 2 in own\.jsonl, row 1; .*`unequal_options: true",
    ):
        run(cell, tmp_path, *rows)
    assert run(cell, tmp_path, *rows, unequal_options=True).values["items"].value == 2


def test_an_item_that_occurs_twice_is_refused() -> None:
    """The same prompt with other options, or the same options after another prompt, is another."""
    rows = [ROW, {**ROW, "options": ["yes", "nay"]}, {**ROW, "q": "Why?"}, {**ROW, "answer": 1}]
    made = [Row(row, f"own.jsonl, row {i}") for i, row in enumerate(rows, 1)]

    def build(rows: list[Row]) -> int:
        return len(build_questions(rows, [], 0, lambda row: make_question(row, options())))

    assert build(made[:3]) == 3
    with pytest.raises(
        InputError, match=r"row 4: the same prompt and options as in own\.jsonl, row 1; each item"
    ):
        build(made)


def test_a_template_s_field_may_be_empty_where_another_is_not() -> None:
    assert ask({"hint": ""}, prompt="{hint}{q}").prompt == "What?"


def test_published_sets_may_have_equal_options_and_items_twice() -> None:
    """Published sets have such items, and other tools score them; one option is still too few."""
    row = Row({**ROW, "options": ["yes", "yes", ""]}, "owner/set test, row 1", own=False)
    assert make_question(row, options()).options == ("yes", "yes", "")
    assert len(build_questions([row] * 2, [], 0, lambda row: make_question(row, options()))) == 2
    with pytest.raises(InputError, match="gives 1 options, expected 2 to 26"):
        make_question(Row({**ROW, "options": ["yes"]}, "row 1", own=False), options())


def test_an_empty_file_is_named(cell: Engine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'own\.jsonl' holds no rows"):
        run(cell, tmp_path)


# Measuring


def test_subjects_are_grouped_and_reported(cell: Engine, tmp_path: Path) -> None:
    rows = [{"q": f"{i}?", "topic": topic} for i, topic in enumerate(("b", "a", "b", "a", "b"))]
    measured = run(cell, tmp_path, *rows, subject="topic")
    assert measured.items["subjects"] == {"b": 3, "a": 2}
    assert measured.values["acc[b]"].n == 3
    assert measured.values["acc[a]"].n == 2
    assert "acc_norm[a]" in measured.values
    assert run(cell, tmp_path, *rows, subject="topic", limit=3).items["subjects"] == {
        "b": 2,
        "a": 1,
    }


def test_examples_precede_each_question(cell: Engine, tmp_path: Path) -> None:
    """A model of 256 tokens: the second row fits only without the long example in front."""
    write(tmp_path, {"q": "x" * 150}, {"q": "short?"}, name="answered.jsonl")
    given = {"shots": 1, "examples": "answered.jsonl"}
    measured = run(cell, tmp_path, {"q": "ok?"}, {"q": "y" * 150}, **given)
    assert measured.values["too_long"].value == 1
    assert run(cell, tmp_path, {"q": "ok?"}, {"q": "y" * 150}).values["too_long"].value == 0


def test_csv_and_jsonl_of_the_same_questions_ask_the_same(cell: Engine, tmp_path: Path) -> None:
    rows = [{"q": "1?"}, {"q": "2?", "answer": 1}]
    lines = run(cell, tmp_path, *rows, options=["right", "wrong"])
    with (tmp_path / "own.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["q", "right", "wrong", "answer"], ["1?", "yes", "no", "A"], ["2?", "yes", "no", "no"]]
        )
    given = options(data="own.csv", options=["right", "wrong"], answer_is=None)
    table = TASK.measure(cell, given, make_context(tmp_path))
    assert table.items == lines.items
    assert table.protocol["items_sha256"] == lines.protocol["items_sha256"]


def test_the_shipped_example_is_answered_by_the_embedded_model() -> None:
    suite = load_suite(EXAMPLE / "suite.yaml")
    [spec] = suite.measurements
    assert isinstance(spec.options, Options)
    cell = load(locate_builtin("builtin:tiny-world"))
    measured = TASK.measure(cell, spec.options, make_context(suite.folder))
    assert measured.items["subjects"] == {"countries": 3, "people": 2, "animals": 1}
    assert measured.values["acc"].value == 1.0
