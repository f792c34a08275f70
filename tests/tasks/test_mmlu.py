"""mmlu: the prompt as published, the files as they are, the averages and the paired drop."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from harness.engines.base import Engine
from harness.errors import InputError
from harness.records.record import Measured
from harness.suite.data_source import DataSource
from harness.tasks.mmlu import (
    TASK,
    Options,
    build_questions,
    load_questions,
    load_subjects,
    make_question,
)
from harness.tasks.rows import Row
from tests.support.cells_in_process import load, make_context, write_checkpoint

DEV = [["Dev one?", "1", "2", "3", "4", "B"], ["Dev two?", "5", "6", "7", "8", "D"]]
TEST = [
    ["First?", "None", "NA", "0.10", "nan", "C"],
    ['Second, "quoted"\nand long? ', " left", "right ", "1.0", "-", "A"],
    ["Third?", "a", "b", "c", "d", "D"],
]


def write_data(folder: Path, **changes: Any) -> Path:
    """MMLU's layout: two subjects; ``changes`` replace a file's rows, or leave it out by None."""
    files = {
        "dev/high_school_llamas_dev.csv": DEV,
        "test/high_school_llamas_test.csv": TEST,
        "dev/anatomy_dev.csv": DEV[::-1],
        "test/anatomy_test.csv": TEST[:1],
    }
    for path, rows in {**files, **changes}.items():
        if rows is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("mmlu") / "model"
    return load(write_checkpoint(folder, max_position_embeddings=512))


def options(**given: Any) -> Options:
    return Options(**{"data": DataSource(path="data"), "shots": 1, **given})


def run(cell: Engine, folder: Path, **given: Any) -> Measured:
    return TASK.measure(cell, options(**given), make_context(folder))


# Prompts


def test_the_prompt_is_the_published_one(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    question = load_questions(options(shots=2), make_context(tmp_path))[2]
    assert question.prompt == (
        "The following are multiple choice questions (with answers) about high school llamas.\n"
        "\n"
        "Dev one?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n"
        "\n"
        "Dev two?\nA. 5\nB. 6\nC. 7\nD. 8\nAnswer: D\n"
        "\n"
        'Second, "quoted"\nand long?\nA.  left\nB. right \nC. 1.0\nD. -\nAnswer:'
    )
    assert question.options == ("A", "B", "C", "D")
    assert (question.id, question.subject, question.answer) == (
        "high_school_llamas/1",
        "high_school_llamas",
        0,
    )


def make_row(**changes: Any) -> Row:
    fields = {"question": "Q?", "choices": ["x", "y"], "answer": 1, **changes}
    return Row(fields, "rows, row 1", own=False)


def test_without_shots_the_question_follows_the_heading() -> None:
    [question] = build_questions("anatomy", [], [make_row()], options(shots=0))
    assert question.prompt == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "Q?\nA. x\nB. y\nAnswer:"
    )
    assert question.options == ("A", "B")
    assert question.delimiter == " "


def test_as_many_dev_examples_as_shots_are_needed() -> None:
    rows = [make_row()] * 2
    assert len(build_questions("anatomy", rows, rows, options(shots=2))) == 2
    with pytest.raises(InputError, match="anatomy has 2 dev examples, 3 shots were asked for"):
        build_questions("anatomy", rows, rows, options(shots=3))


# Files


def read(folder: Path, subject: str) -> list[list[Any]]:
    """Question, choices and answer of each row, as the file has them."""
    found = load_subjects(options().data, make_context(folder), "test")[subject]
    return [[*row.fields.values()][:-1] for row in found]


def test_every_cell_is_read_as_the_text_it_is(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    assert read(tmp_path, "high_school_llamas") == TEST


def test_blank_lines_and_crlf_in_a_file_are_no_rows(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    path = tmp_path / "data" / "test" / "anatomy_test.csv"
    path.write_bytes(b"Q?,a,b,c,d,A\r\n\r\nR?,a,b,c,d,B\r\n")
    assert read(tmp_path, "anatomy") == [["Q?", *"abcdA"], ["R?", *"abcdB"]]


ROW = ["Q?", "a", "b", "c", "d", "A"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, [*ROW[:5], "E"]], r"row 2: answer 'E' is not one of A, B, C, D"),
        ([[*ROW[:5], ""]], r"row 1: answer '' is not one of"),
        ([[*ROW[:5], "AB"]], r"row 1: answer 'AB' is not one of"),
        ([[*ROW[:5], "2"]], r"row 1: answer '2' is not one of"),
        ([ROW, ["Q?", "a", "", "c", "d", "A"]], r"row 2: field 'choices': option 2 is empty"),
        ([ROW, ROW[1:]], r"row 2: expected 6 columns, found 5"),
        ([[*ROW, "x"], [*ROW, "x"]], r"row 1: expected 6 columns, found 7"),
        ([ROW, [*ROW, "x"]], r"row 2: expected 6 columns, found 7"),
        ([ROW, ["", *ROW[1:]]], r"row 2: field 'question' is empty"),
        ([ROW, ["Q?", "a", " ", "c", "d", "A"]], r"row 2: field 'choices': option 2 is empty"),
        ([], r" is empty"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_row(
    tmp_path: Path, rows: list[list[str]], message: str
) -> None:
    write_data(tmp_path / "data", **{"test/anatomy_test.csv": rows})
    with pytest.raises(InputError, match=r"anatomy_test\.csv,? ?" + message):
        load_questions(options(), make_context(tmp_path))


def test_equal_options_and_questions_asked_twice_count_as_the_published_files_have_them(
    cell: Engine, tmp_path: Path
) -> None:
    rows = [ROW, ROW, ["R?", "a", "a", "c", "d", "A"]]
    write_data(tmp_path / "data", **{"test/anatomy_test.csv": rows})
    measured = run(cell, tmp_path, subjects=("anatomy",))
    assert measured.values["items"].value == 3
    assert measured.items["right"][0] == measured.items["right"][1]


HUB_ROW = {"question": "Q?", "subject": "anatomy", "choices": ["a", "b"], "answer": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": None}, "field 'question' is missing"),
        ({"choices": ["a"], "answer": 0}, "field 'choices' gives 1 options, expected 2 to 26"),
        ({"choices": list(map(str, range(27)))}, "gives 27 options, expected 2 to 26"),
        ({"answer": None}, "field 'answer' is missing"),
        ({"answer": 2}, "answer 2 is not one of A, B"),
        ({"answer": -1}, "answer -1 is not one of A, B"),
        ({"answer": True}, "answer True is not one of A, B"),
        ({"answer": "C"}, "answer 'C' is not one of A, B"),
    ],
)
def test_a_malformed_row_of_the_hub_is_named_by_dataset_row_and_field(
    changes: dict[str, Any], message: str
) -> None:
    row = {name: value for name, value in {**HUB_ROW, **changes}.items() if value is not ...}
    with pytest.raises(InputError, match=rf"^cais/mmlu test, row 2: .*{message}"):
        make_question(Row(row, "cais/mmlu test, row 2", own=False))


def test_oddities_of_the_hub_are_kept() -> None:
    odd = make_question(make_row(question="", choices=["a", "a", ""], answer="C"))
    assert (odd.asked, odd.choices, odd.answer) == ("", ("a", "a", ""), 2)
    assert len(make_question(make_row(choices=list(map(str, range(26))))).options) == 26


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "data" / "dev" / "anatomy_dev.csv").write_bytes(b"\xe9?,a,b,c,d,A\n")
    with pytest.raises(InputError, match=r"cannot read anatomy_dev\.csv: .*utf-8"):
        load_questions(options(), make_context(tmp_path))


def test_an_answer_may_have_spaces_around_it(tmp_path: Path) -> None:
    write_data(tmp_path / "data", **{"test/anatomy_test.csv": [[*ROW[:5], " C "]]})
    assert load_questions(options(), make_context(tmp_path))[0].answer == 2


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_missing_split_is_named(tmp_path: Path, split: str) -> None:
    names = (f"{split}/{s}_{split}.csv" for s in ("anatomy", "high_school_llamas"))
    write_data(tmp_path / "data", **dict.fromkeys(names))
    with pytest.raises(InputError, match=rf"no {split}/<subject>_{split}\.csv files in .*data"):
        load_questions(options(), make_context(tmp_path))


def test_a_subject_without_dev_examples_cannot_have_shots(cell: Engine, tmp_path: Path) -> None:
    write_data(tmp_path / "data", **{"dev/anatomy_dev.csv": None})
    assert run(cell, tmp_path, shots=0).values["items"].value == 4
    with pytest.raises(InputError, match="anatomy has 0 dev examples, 1 shots were asked for"):
        run(cell, tmp_path, shots=1)


def test_an_unknown_subject_is_answered_with_those_there_are(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    with pytest.raises(InputError, match="no subject 'anatomi'; there are anatomy, high_school_l"):
        load_questions(options(subjects=("anatomi",)), make_context(tmp_path))


def test_subjects_and_limit_select(cell: Engine, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    assert run(cell, tmp_path, subjects=("anatomy",)).items["subjects"] == {"anatomy": 1}
    limited = run(cell, tmp_path, limit=2)
    assert limited.items["subjects"] == {"anatomy": 1, "high_school_llamas": 2}
    assert limited.values["items"].value == 3


# Measuring


def test_chosen_and_right_are_kept_per_item(cell: Engine, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    measured = run(cell, tmp_path)
    answers = "C" + "CAD"  # anatomy's, then the llamas'
    right = "".join("01"[a == b] for a, b in zip(measured.items["chosen"], answers, strict=True))
    assert measured.items["right"] == right
    assert measured.values["acc"].value == right.count("1") / 4
    assert measured.values["acc[anatomy]"].value == int(right[0])
    assert measured.values["too_long"].value == 0
    assert measured.validity.status == "ok"
    assert set(measured.items["tied"]) <= {"0", "1"}


def test_prompts_that_are_too_long_are_counted_and_flagged(cell: Engine, tmp_path: Path) -> None:
    long = ["x" * 500, "a", "b", "c", "d", "A"]
    write_data(tmp_path / "data", **{"test/anatomy_test.csv": [ROW, long, ROW]})
    measured = run(cell, tmp_path, subjects=("anatomy",), shots=0)
    assert measured.validity.status == "flagged"
    assert measured.validity.reasons == ("1 prompts exceed the model's context; not scored",)
    assert measured.values["too_long"].value == 1
    assert measured.values["items"].value == measured.values["acc"].n == 2
    assert [measured.items[key][1] for key in ("chosen", "right", "tied")] == ["-", "-", "0"]


def test_a_record_without_one_scored_item_is_refused(cell: Engine, tmp_path: Path) -> None:
    long = ["x" * 500, "a", "b", "c", "d", "A"]
    write_data(tmp_path / "data", **{"test/anatomy_test.csv": [long]})
    with pytest.raises(InputError, match=r"every 1-shot prompt is longer than the 512 tokens of m"):
        run(cell, tmp_path, subjects=("anatomy",))


def test_the_batch_size_is_no_part_of_the_protocol(cell: Engine, tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    one, other = run(cell, tmp_path, batch_tokens=1), run(cell, tmp_path, batch_tokens=9999)
    assert one.protocol == other.protocol
    differing = {"cost", "log_likelihoods"}  # the latter in their last digit
    assert {k: v for k, v in one.items.items() if k not in differing} == {
        k: v for k, v in other.items.items() if k not in differing
    }
    assert one.protocol["subjects"] == ["anatomy", "high_school_llamas"]
    assert one.protocol["tokenizer_sha256"] == cell.job.files.tokenizer_sha256
    assert run(cell, tmp_path, shots=2).protocol["items_sha256"] != one.protocol["items_sha256"]
