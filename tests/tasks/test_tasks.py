"""The published multiple-choice tasks: their prompts byte for byte, their examples, their files.

The prompts were written down from what lm-evaluation-harness 0.4.13 builds of the same rows.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.descriptions import Metric
from harness.engines.base import Engine
from harness.errors import InputError
from harness.records.questions import Question
from harness.suite.data_source import DataSource
from harness.tasks import arc_challenge, arc_easy, hellaswag, openbookqa, piqa, winogrande
from harness.tasks.choice_task import build_questions
from harness.tasks.rows import Row, load_examples, load_rows
from harness.tasks.shared import RowOptions
from tests.support.cells_in_process import load, make_context, write_checkpoint
from tests.support.hub_server import client_environment, serve_hub

ROOT = Path(__file__).resolve().parents[2]

HELLASWAG = [
    {
        "activity_label": " Travel",
        "ctx_a": "[header] How to enjoy a trip [title] Get  the information. "
        "[step] Most directors [sic] hand out a package.",
        "ctx_b": "",
        "label": 0,
        "endings": [
            "Make sure you sign it.",
            "[title] Stick to dates, so as to know. [step] Do not decide.",
            "Include: [substeps] Country [title] Be imaginative.",
            " go  home ",
        ],
    },
    {
        "activity_label": "Pole vault",
        "ctx_a": "A sport where you run with a pole.",
        "ctx_b": "a FEW women",
        "label": "3",  # a text on the hub, a number in the published file
        "endings": ["go down.", "watch from around.", "are in the pool.", "try."],
    },
    {
        "activity_label": "Long jump",
        "ctx_a": "People stand around a pit.",
        "ctx_b": "the man",
        "label": 1,
        "endings": ["digs.", "jumps [into] it.", "sits.", "is it."],
    },
]


def labelled(stem: str, question: str, texts: Sequence[str], key: str, labels: str) -> dict:
    choices = {"text": list(texts), "label": list(labels)}
    return {"id": question, stem: question, "choices": choices, "answerKey": key}


ARC = [
    labelled("question", "What is ice? ", ["a solid", "a gas", "fire", "tea", "?"], "A", "ABCDE"),
    labelled("question", "Which is alive?", ["a rock", "a fern", "rain", "wind"], "B", "ABCD"),
    labelled("question", "Which gas do plants take in?", ["oxygen", "CO2", "helium"], "2", "123"),
]
OPENBOOKQA = [
    labelled("question_stem", "A magnet will stick to", ["iron", "wood", "tea", "?"], " A", "ABCD"),
    labelled("question_stem", "Frilled sharks live", ["up", "in the deep", "x", "y"], "B", "ABCD"),
    labelled("question_stem", "As food burns,", ["it sings", "x", "smoke rises", "y"], "C", "ABCD"),
]
PIQA = [
    {"goal": "Open a jar. ", "sol1": "tap its lid", "sol2": "paint its lid", "label": 0},
    {"goal": "Dry a shirt", "sol1": "use the rain", "sol2": "use the sun", "label": 1},
    {"goal": "Cool tea", "sol1": "blow on it", "sol2": "look at it", "label": "0"},
]
WINOGRANDE = [
    {
        "sentence": "The trophy did not fit in the suitcase because the _ was too big.",
        "option1": "suitcase",
        "option2": "trophy",
        "answer": "2",
    },
    {
        "sentence": "_'s car broke, so Ann gave Bob  a lift.",
        "option1": "Ann",
        "option2": "Bob",
        "answer": 2,
    },
    {
        "sentence": "Ann paid Bob because _ had worked .",
        "option1": "Ann",
        "option2": "Bob",
        "answer": "2",
    },
]
TASKS: dict[str, tuple[Metric, Any, list[dict[str, Any]]]] = {
    "hellaswag": (hellaswag.TASK, hellaswag.make_question, HELLASWAG),
    "arc_easy": (arc_easy.TASK, arc_easy.make_question, ARC),
    "arc_challenge": (arc_challenge.TASK, arc_easy.make_question, ARC),
    "openbookqa": (openbookqa.TASK, openbookqa.make_question, OPENBOOKQA),
    "piqa": (piqa.TASK, piqa.make_question, PIQA),
    "winogrande": (winogrande.TASK, winogrande.make_question, WINOGRANDE),
}


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> DataSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataSource(path=str(path))


def ask(task: str, folder: Path, shots: int = 0) -> Question:
    """The first row as a question, the others being the examples."""
    module, make_question, rows = TASKS[task]
    options = module.options(
        data=write_rows(folder / "rows.jsonl", rows[:1]),
        shots=shots,
        examples=write_rows(folder / "answered.jsonl", rows[1:]),
    )
    context = make_context(folder)
    examples = load_examples(options, context)
    [question] = build_questions(
        load_rows(options.data, context, "test"), examples, shots, make_question
    )
    return question


def make(task: str, row: dict[str, Any]) -> Question:
    question: Question = TASKS[task][1](Row(row, "rows.jsonl, row 1"))
    return question


# Prompts


def test_hellaswag_is_cleaned_of_its_marks_and_double_spaces(tmp_path: Path) -> None:
    question = ask("hellaswag", tmp_path)
    assert question.prompt == (
        "Travel: How to enjoy a trip. Get the information. Most directors hand out a package."
    )
    assert [question.delimiter + option for option in question.options] == [
        " Make sure you sign it.",
        "  Stick to dates, so as to know. Do not decide.",
        " Include: Country. Be imaginative.",
        " go home",
    ]
    assert (question.answer, question.id) == (0, "hellaswag/0")


def test_hellaswag_continues_with_the_second_context_capitalised() -> None:
    question = make("hellaswag", HELLASWAG[1])
    assert question.prompt == "Pole vault: A sport where you run with a pole. A few women"
    assert question.answer == 3


@pytest.mark.parametrize("task", ["arc_easy", "arc_challenge"])
def test_arc_asks_without_showing_options(task: str, tmp_path: Path) -> None:
    question = ask(task, tmp_path)
    assert question.prompt == "Question: What is ice? \nAnswer:"
    assert question.options == ("a solid", "a gas", "fire", "tea", "?")
    assert (question.delimiter, question.answer) == (" ", 0)


def test_arc_answers_are_letters_or_digits() -> None:
    assert [make("arc_easy", row).answer for row in ARC] == [0, 1, 1]


def test_openbookqa_is_the_stem_alone(tmp_path: Path) -> None:
    question = ask("openbookqa", tmp_path)
    assert question.prompt == "A magnet will stick to"
    assert question.options == ("iron", "wood", "tea", "?")
    assert question.answer == 0  # from ' A'


def test_piqa_asks_for_a_solution(tmp_path: Path) -> None:
    question = ask("piqa", tmp_path)
    assert question.prompt == "Question: Open a jar. \nAnswer:"
    assert question.options == ("tap its lid", "paint its lid")
    assert [make("piqa", row).answer for row in PIQA] == [0, 1, 0]


def test_winogrande_scores_one_end_behind_two_beginnings(tmp_path: Path) -> None:
    question = ask("winogrande", tmp_path)
    assert question.prompts == (
        "The trophy did not fit in the suitcase because the suitcase",
        "The trophy did not fit in the suitcase because the trophy",
    )
    assert question.options == ("was too big.", "was too big.")
    assert (question.delimiter, question.answer) == (" ", 1)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "hellaswag",
            "Pole vault: A sport where you run with a pole. A few women try.\n\n"
            "Long jump: People stand around a pit. The man jumps it.\n\n",
        ),
        (
            "arc_easy",
            "Question: Which is alive?\nAnswer: a fern\n\n"
            "Question: Which gas do plants take in?\nAnswer: CO2\n\n",
        ),
        ("openbookqa", "Frilled sharks live in the deep\n\nAs food burns, smoke rises\n\n"),
        (
            "piqa",
            "Question: Dry a shirt\nAnswer: use the sun\n\n"
            "Question: Cool tea\nAnswer: blow on it\n\n",
        ),
    ],
)
def test_examples_come_first_with_a_blank_line_between(
    task: str, expected: str, tmp_path: Path
) -> None:
    assert ask(task, tmp_path, 2).prompt == expected + ask(task, tmp_path).prompt


def test_winogrande_examples_precede_both_beginnings(tmp_path: Path) -> None:
    question = ask("winogrande", tmp_path, 2)
    shown = (
        "Bob 's car broke, so Ann gave Bob  a lift.\n\nAnn paid Bob because Bob had worked .\n\n"
    )
    assert question.prompts == (
        shown + "The trophy did not fit in the suitcase because the suitcase",
        shown + "The trophy did not fit in the suitcase because the trophy",
    )


# Examples


def test_a_question_is_not_its_own_example() -> None:
    rows = [Row(row, f"row {i}") for i, row in enumerate(PIQA)]
    first, second, third = build_questions(rows, rows, 2, piqa.make_question)
    assert first.prompt.startswith("Question: Dry a shirt\n")
    assert second.prompt.startswith("Question: Open a jar. \n")
    assert second.prompt.count("Question:") == 3
    assert "Dry a shirt" in third.prompt


def test_as_many_examples_as_shots_are_needed(tmp_path: Path) -> None:
    assert ask("piqa", tmp_path, 2).prompt.count("Answer:") == 3
    with pytest.raises(InputError, match=r"answered\.jsonl' has 2 examples, 3 shots were asked fo"):
        ask("piqa", tmp_path, 3)


def test_a_question_among_too_few_examples_is_refused() -> None:
    rows = [Row(row, f"piqa.jsonl, row {i}") for i, row in enumerate(PIQA, 1)]
    with pytest.raises(
        InputError, match=r"row 1: there are 2 examples besides this question, 3 sh"
    ):
        build_questions(rows, rows, 3, piqa.make_question)


def test_shots_of_a_local_file_need_a_file_of_examples(tmp_path: Path) -> None:
    options = RowOptions(data=write_rows(tmp_path / "rows.jsonl", PIQA), shots=1)
    with pytest.raises(InputError, match=r"1 shots .* name the file of the answered ones with `ex"):
        load_examples(options, make_context(tmp_path))


FROM_THE_HUB = """
import json
from pathlib import Path
from harness.descriptions import MeasureContext
from harness.tasks import arc_easy, hellaswag, mmlu
from harness.tasks.choice_task import build_questions
from harness.tasks.rows import load_examples, load_rows
context = MeasureContext(Path(), online=True, progress=lambda *_: None)
found = []
for task, split in ((hellaswag, "validation"), (arc_easy, "test")):
    options = task.Options(shots=1)
    rows = load_rows(options.data, context, split, 1)
    examples = load_examples(options, context)
    found += build_questions(rows, examples, 1, task.make_question)
found += mmlu.load_questions(mmlu.Options(shots=1), context)
print(json.dumps([question.prompt for question in found]))
"""


def test_published_sets_and_their_examples_come_from_the_hub(tmp_path: Path) -> None:
    for name, rows, split in (("hs", HELLASWAG, "validation"), ("arc", ARC, "test")):
        folder = tmp_path / name / "ARC-Easy"
        folder.mkdir(parents=True)
        write_rows(folder / f"{split}.jsonl", rows[:1])
        write_rows(folder / "train.jsonl", rows[1:2])
    for split in ("dev", "test"):
        (tmp_path / "mmlu" / "all").mkdir(parents=True, exist_ok=True)
        rows = [
            {"question": f"{split}?", "subject": subject, "choices": ["x", "y"], "answer": 1}
            for subject in ("law", "art", "law")
        ]
        write_rows(tmp_path / "mmlu" / "all" / f"{split}.jsonl", rows)
    splits = "".join(f"  - {{split: {s}, path: all/{s}.jsonl}}\n" for s in ("dev", "test"))
    (tmp_path / "mmlu" / "README.md").write_text(
        f"---\nconfigs:\n- config_name: all\n  data_files:\n{splits}---\n"
    )
    card = "configs:\n- config_name: ARC-Easy\n  data_dir: ARC-Easy\n"
    (tmp_path / "arc" / "README.md").write_text(f"---\n{card}---\n")
    with serve_hub() as hub:
        hub.add("Rowan/hellaswag", tmp_path / "hs", kind="datasets")
        hub.add("allenai/ai2_arc", tmp_path / "arc", kind="datasets")
        hub.add("cais/mmlu", tmp_path / "mmlu", kind="datasets")
        process = subprocess.run(
            [sys.executable, "-c", FROM_THE_HUB],
            env=client_environment(hub.endpoint, tmp_path / "home", PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert process.returncode == 0, process.stderr
    asked = json.loads(process.stdout)
    assert asked[0].startswith(
        "Pole vault: A sport where you run with a pole. A few women try.\n\n"
    )
    assert (
        asked[1] == "Question: Which is alive?\nAnswer: a fern\n\nQuestion: What is ice? \nAnswer:"
    )
    assert [prompt.partition("\n\n")[0].rpartition(" ")[2] for prompt in asked[2:]] == [
        "art.",
        "law.",
        "law.",
    ]
    assert asked[2].endswith("\n\ndev?\nA. x\nB. y\nAnswer: B\n\ntest?\nA. x\nB. y\nAnswer:")


# Files


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def of_labels(labels: str) -> dict[str, Any]:
    return labelled("question", "Which?", [f"{i}." for i in range(len(labels))], "A", labels)


def without(row: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != field}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("hellaswag", without(HELLASWAG[0], "endings"), "unknown field 'endings'"),
        ("hellaswag", {**HELLASWAG[0], "ctx_b": None}, "field 'ctx_b' is missing"),
        ("hellaswag", {**HELLASWAG[0], "label": ""}, "label '' is not one of 0, 1, 2, 3"),
        ("hellaswag", {**HELLASWAG[0], "label": 4}, "label 4 is not one of 0, 1, 2, 3"),
        ("hellaswag", {**HELLASWAG[0], "label": "01"}, "label '01' is not one of"),
        (
            "hellaswag",
            {**HELLASWAG[0], "endings": ["a", "b", "c"]},
            "field 'endings' holds 3 options, expected 4",
        ),
        (
            "hellaswag",
            {**HELLASWAG[0], "endings": "a b c d"},
            "field 'endings' holds 'a b c d', expected a list",
        ),
        (
            "hellaswag",
            {**HELLASWAG[0], "endings": ["a", None, "c", "d"]},
            "field 'endings', option 1 holds None, expected a text",
        ),
        ("arc_easy", {**ARC[0], "answerKey": "F"}, "answerKey 'F' is not one of A, B, C, D, E"),
        ("arc_easy", {**ARC[2], "answerKey": "B"}, "answerKey 'B' is not one of 1, 2, 3"),
        ("arc_easy", {**ARC[0], "choices": ["a"]}, r"'choices' holds \['a'\], expected lists 'tex"),
        (
            "arc_easy",
            {**ARC[0], "choices": {"text": ["a", "b"], "label": ["A"]}},
            "choices: field 'text' holds 2 options, expected 1",
        ),
        (
            "openbookqa",
            {**OPENBOOKQA[0], "choices": {"text": ["a"] * 3, "label": list("ABC")}},
            "choices: field 'label' holds 3 options, expected 4",
        ),
        ("piqa", without(PIQA[0], "sol2"), r"unknown field 'sol2'; did you mean 'sol1'\? Known: g"),
        ("piqa", {**PIQA[0], "label": 2}, "label 2 is not one of 0, 1"),
        ("piqa", {**PIQA[0], "label": True}, "label True is not one of 0, 1"),
        ("piqa", {**PIQA[0], "goal": 1.5}, "field 'goal' holds 1.5, expected a text"),
        ("winogrande", {**WINOGRANDE[0], "sentence": "No."}, "'sentence' has no blank, '_': 'No.'"),
        ("winogrande", {**WINOGRANDE[0], "answer": ""}, "answer '' is not one of 1, 2"),
        ("winogrande", {**WINOGRANDE[0], "answer": "0"}, "answer '0' is not one of 1, 2"),
        ("arc_easy", of_labels("AA"), "choices: field 'label' holds A, A: two labels are the same"),
        ("arc_easy", of_labels("A"), "field 'choices' gives 1 options, expected 2 to 26"),
        ("arc_easy", of_labels(ALPHABET + "0"), "'choices' gives 27 options, expected 2 to 26"),
    ],
)
def test_a_malformed_row_is_named_by_file_row_and_field(
    task: str, row: dict[str, Any], message: str
) -> None:
    """Wherever it comes from: it could not be scored."""
    for own in (True, False):
        with pytest.raises(InputError, match=r"^rows\.jsonl, row 1(:|, ).*" + message):
            TASKS[task][1](Row(row, "rows.jsonl, row 1", own))


@pytest.mark.parametrize("labels", ["AB", ALPHABET])
def test_two_to_26_options_are_taken(labels: str) -> None:
    assert len(make("arc_easy", of_labels(labels)).options) == len(labels)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("hellaswag", {"endings": ["a", " ", "c", "d"]}, "'endings', cleaned: option 2 is empty"),
        (
            "hellaswag",
            {"endings": ["a", "b", "[title]", "d"]},
            "'endings', cleaned: option 3 is empty",
        ),
        (
            "hellaswag",
            {"endings": ["a", "b", "c", "[x]a"]},
            "'endings', cleaned: options 1 and 4 are the same: 'a'",
        ),
        ("hellaswag", {"ctx_a": ""}, "'ctx_a' is empty"),
        ("arc_easy", {"question": " "}, "'question' is empty"),
        (
            "arc_easy",
            {"choices": {"text": ["a", "b", "b"], "label": ["A", "B", "C"]}},
            "'choices': options 2 and 3 are the same: 'b'",
        ),
        (
            "arc_easy",
            {"choices": {"text": ["a", ""], "label": ["A", "B"]}},
            "'choices': option 2 is empty",
        ),
        ("openbookqa", {"question_stem": ""}, "'question_stem' is empty"),
        (
            "openbookqa",
            {"choices": {"text": ["a", "b", "c", "a"], "label": ["A", "B", "C", "D"]}},
            "'choices': options 1 and 4 are the same: 'a'",
        ),
        ("piqa", {"goal": ""}, "'goal' is empty"),
        ("piqa", {"sol1": " "}, "'sol1', 'sol2': option 1 is empty"),
        ("piqa", {"sol1": "x", "sol2": "x"}, "'sol1', 'sol2': options 1 and 2 are the same: 'x'"),
        ("winogrande", {"sentence": "It was _ "}, "'sentence' has nothing after its blank"),
        ("winogrande", {"sentence": "_ met _."}, "'sentence' has more than one blank"),
        ("winogrande", {"option1": ""}, "'option1' is empty"),
        (
            "winogrande",
            {"option1": "x", "option2": "x"},
            "'option1', 'option2': options 1 and 2 are the same$",
        ),
    ],
)
def test_empty_or_equal_texts_are_refused_in_a_local_file_and_scored_from_the_hub(
    task: str, changes: dict[str, Any], message: str
) -> None:
    _, make_question, rows = TASKS[task]
    row = {**rows[0], **changes}
    with pytest.raises(InputError, match=r"^rows\.jsonl, row 1: field " + message):
        make_question(Row(row, "rows.jsonl, row 1"))
    assert make_question(Row(row, "owner/set test, row 1", own=False)).answer in (0, 1)


@pytest.mark.parametrize("task", TASKS)
def test_an_item_twice_is_refused_in_a_local_file_and_scored_from_the_hub(task: str) -> None:
    _, make_question, published = TASKS[task]
    rows = [*published, {**published[0], "note": "another field"}]
    own, hub = (
        [Row(row, f"rows.jsonl, row {i}", own) for i, row in enumerate(rows, 1)]
        for own in (True, False)
    )
    assert len(build_questions(own[:3], [], 0, make_question)) == 3
    assert len(build_questions(hub, [], 0, make_question)) == 4
    with pytest.raises(
        InputError,
        match=r"^rows\.jsonl, row 4: the same prompt and options as in rows\.jsonl, row 1",
    ):
        build_questions(own, [], 0, make_question)


def test_rows_of_a_local_file_are_marked_as_own(tmp_path: Path) -> None:
    [row] = read(tmp_path, "rows.jsonl", '{"a": ""}')
    assert row.own
    with pytest.raises(InputError, match=r"^rows\.jsonl, row 1: field 'a' is empty"):
        row.filled("a")


@pytest.mark.skipif(
    not os.environ.get("HARNESS_REAL_DATA"),
    reason="HARNESS_REAL_DATA names no folder with models/ and data/",
)
def test_published_items_in_a_local_file_pass_every_check() -> None:
    root = Path(os.environ["HARNESS_REAL_DATA"]).resolve()
    source = DataSource(path=str(root / "data" / "hellaswag" / "validation_1000.jsonl"))
    rows = load_rows(source, make_context(Path("/")), "validation")
    assert len(build_questions(rows, [], 0, hellaswag.make_question)) == 1000


def read(folder: Path, name: str, data: bytes | str) -> list[Row]:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return load_rows(DataSource(path=name), make_context(folder), "test")


def test_jsonl_keeps_every_value_as_it_is_written(tmp_path: Path) -> None:
    """A date stays the text it is, types may differ by row, and rows count as lines."""
    text = '\ufeff{"a": "2019-01-01", "b": 1}\r\n\n{"b": "x\u2028y"}\n'
    rows = read(tmp_path, "rows.jsonl", text)
    assert [row.fields for row in rows] == [{"a": "2019-01-01", "b": 1}, {"b": "x\u2028y"}]
    assert [row.where for row in rows] == ["rows.jsonl, row 1", "rows.jsonl, row 3"]


def test_json_is_a_list_of_rows(tmp_path: Path) -> None:
    rows = read(tmp_path, "rows.json", '[\n{"a": "x"},\n{"a": "y"}]')
    assert [(row.text("a"), row.where) for row in rows] == [
        ("x", "rows.json, row 1"),
        ("y", "rows.json, row 2"),
    ]


def test_csv_cells_are_texts_and_its_heading_is_row_1(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["a", "b"], ["None", "0.10"], ["x\ny", ""]])
    rows = load_rows(DataSource(path="rows.csv"), make_context(tmp_path), "test")
    assert [row.fields for row in rows] == [{"a": "None", "b": "0.10"}, {"a": "x\ny", "b": ""}]
    assert [row.where for row in rows] == ["rows.csv, row 2", "rows.csv, row 3"]


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow, parquet = (pytest.importorskip(f"pyarrow{part}") for part in ("", ".parquet"))
    parquet.write_table(pyarrow.table({"a": ["x"], "b": [[1, 2]]}), tmp_path / "rows.parquet")
    [row] = load_rows(DataSource(path="rows.parquet"), make_context(tmp_path), "test")
    assert (row.text("a"), row.texts("b")) == ("x", ("1", "2"))


DEEP = "[" * 100_000 + "]" * 100_000
HALF = r"holds '\\ud83d', half of a character"


def test_a_pair_of_escaped_halves_is_one_character(tmp_path: Path) -> None:
    [row] = read(tmp_path, "rows.jsonl", '{"a": "\\ud83d\\ude00", "b": [[[1]]]}')
    assert row.text("a") == "\U0001f600"
    assert row.value("b") == [[[1]]]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.jsonl", "", r"'rows\.jsonl' holds no rows"),
        ("rows.jsonl", "\n\n", r"'rows\.jsonl' holds no rows"),
        ("rows.json", "[]", r"'rows\.json' holds no rows"),
        ("rows.jsonl", '{"a": 1}\n{"a": \n', r"rows\.jsonl, row 2: no JSON: "),
        ("rows.jsonl", '{"a": 1}\n3\n', r"rows\.jsonl, row 2: expected an object"),
        ("rows.json", "[1]", r"rows\.json, row 1: expected an object"),
        ("rows.json", "[1", r"rows\.json: no JSON: "),
        pytest.param(
            "rows.jsonl",
            f'{{"a": 1}}\n{{"a": {"9" * 5000}}}',
            r"rows\.jsonl, row 2: no JSON: ",
            id="long1",
        ),
        pytest.param("rows.json", f'[{{"a": {"9" * 5000}}}]', r"rows\.json: no JSON: ", id="long2"),
        ("rows.jsonl", '{"a": "x"}\n{"a": "x \\ud83d"}', rf"row 2: field 'a' {HALF}"),
        ("rows.jsonl", '{"a": {"b": ["\\uDE00"]}}', r"row 1: field 'a' holds '\\ude00', half"),
        ("rows.jsonl", '{"\\ud83d": 1}', rf"row 1: field '\\ud83d' {HALF}"),
        ("rows.json", '[{"a": 1}, {"a": "\\ud83d"}]', rf"rows\.json, row 2: field 'a' {HALF}"),
        pytest.param(
            "rows.jsonl",
            '{"a": 1}\n{"a": ' + DEEP + "}",
            r"rows\.jsonl, row 2: lists or objects",
            id="long3",
        ),
        pytest.param(
            "rows.jsonl",
            '{"a": 1}\n' + DEEP,
            r"rows\.jsonl, row 2: lists or objects lie too deep",
            id="long4",
        ),
        pytest.param("rows.json", DEEP, r"rows\.json: lists or objects lie too deep", id="long5"),
        ("rows.jsonl", b'{"a": "\xe9"}', r"rows\.jsonl is not UTF-8: "),
        ("rows.csv", "a,b\n", r"'rows\.csv' holds no rows"),
        ("rows.csv", "", r"rows\.csv is empty"),
        ("rows.csv", "a,a\nx,y\n", r"rows\.csv: two columns have the same heading: a, a"),
        ("rows.csv", "a,b\nx\n", r"rows\.csv, row 2: expected 2 columns, found 1"),
        ("rows.xml", "<a/>", r"'rows\.xml': expected a file of rows, one of \.csv, \.json"),
    ],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, name: str, data: bytes | str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, name, data)


def test_a_folder_is_no_file_of_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        load_rows(DataSource(path=str(tmp_path)), make_context(tmp_path), "test")


# Measuring


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("tasks") / "model"
    return load(write_checkpoint(folder, max_position_embeddings=512))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_measured(task: str, cell: Engine, tmp_path: Path) -> None:
    module, _, rows = TASKS[task]
    options = module.options(data=write_rows(tmp_path / "rows.jsonl", rows), limit=2)
    measured = module.measure(cell, options, make_context(tmp_path))
    unpaired = {name for name, spec in module.values.items() if not spec.paired}
    assert set(measured.values) == unpaired
    assert measured.values["items"].value == 2
    assert measured.values["acc"].value == measured.items["right"].count("1") / 2
    assert measured.validity.status == "ok"
    shown = {column.value for column in module.headline}
    assert shown <= set(module.values)


def test_acc_takes_the_likelier_and_acc_norm_the_likelier_per_character(
    cell: Engine, tmp_path: Path
) -> None:
    """Of random bytes each costs some 6 nats: a short option is likelier, a long one per byte not.

    The space in front counts as a byte and not as a character of either.
    """
    short, long = "a", "abcdefghij " * 6
    rows = [
        {"goal": "?", "sol1": short, "sol2": long, "label": 0},
        {"goal": "?", "sol1": long, "sol2": short, "label": 1},
        {"goal": "!", "sol1": long, "sol2": short, "label": 0},
    ]
    options = piqa.Options(data=write_rows(tmp_path / "rows.jsonl", rows))
    measured = piqa.TASK.measure(cell, options, make_context(tmp_path))
    assert measured.items["right"] == "110"
    assert measured.items["right_norm"] == "001"
    assert measured.values["acc"].value == 2 / 3
    assert measured.values["acc_norm"].value == 1 / 3


def test_shots_and_examples_belong_to_the_protocol(cell: Engine, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", PIQA[:1])
    examples = write_rows(tmp_path / "answered.jsonl", PIQA[1:])
    options = piqa.Options(data=data, shots=1, examples=examples)
    plain = piqa.TASK.measure(cell, piqa.Options(data=data), make_context(tmp_path))
    measured = piqa.TASK.measure(cell, options, make_context(tmp_path))
    assert measured.protocol["shots"] == 1
    assert measured.protocol["items_sha256"] != plain.protocol["items_sha256"]


def test_the_hash_of_the_items_changes_with_prompt_option_answer_and_order(
    cell: Engine, tmp_path: Path
) -> None:
    def measure(rows: list[dict[str, Any]]) -> str:
        options = piqa.Options(data=write_rows(tmp_path / "rows.jsonl", rows))
        measured = piqa.TASK.measure(cell, options, make_context(tmp_path))
        return measured.protocol["items_sha256"]

    first, second = PIQA[:2]
    changes = ({"goal": "Dry a coat"}, {"sol1": "use the wind"}, {"label": 0})
    variants = [[first, second], [second, first], [first]]
    variants += [[first, {**second, **change}] for change in changes]
    assert len({measure(rows) for rows in variants}) == len(variants)
    assert measure(variants[0]) == measure([first, {**second, "note": "another field"}])
