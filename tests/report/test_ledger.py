"""The ledger of harmful flips: how lost items are shown, with the questions that were asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from harness.records.questions import Item, keep_questions
from harness.records.record import Record
from harness.report.document import Document
from harness.report.ledger import dump_ledger, open_ledger, show_ledger
from harness.report.markdown import write_markdown
from harness.report.plain import CUT
from harness.report.terminal import write_terminal
from harness.verdicts.flips import list_flips
from tests.support.flipped import (
    choice_record,
    gsm8k_record,
    lambada_record,
    normed_pair,
    nothing,
)
from tests.support.projects import ROOT, Project, find_records

LONG = "Long " + "x " * 450 + "end?"
QUIZ = ROOT / "harness/builtin/tiny-world/quiz/test"
SUITE = """name: q
reference: fp32
models: [{name: w, source: "builtin:tiny-world"}]
precisions: [fp32, nf4]
measure:
  mmlu: {data: "builtin:tiny-world/quiz", shots: 5}
"""


def make(a: Record, b: Record, read_a: Any, read_b: Any, limit: int) -> Document:
    page = open_ledger(a, b, read_a, read_b)
    assert page is not None
    return Document("", (show_ledger(page, limit),))


def show(a: Record, b: Record, read_a: Any, read_b: Any, limit: int) -> str:
    return write_terminal(make(a, b, read_a, read_b, limit))


def dump(a: Record, b: Record, read_a: Any, read_b: Any, limit: int) -> Any:
    page = open_ledger(a, b, read_a, read_b)
    assert page is not None
    return dump_ledger(page, limit)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Record, Record, Any]:
    """Two lost items and a tie, with questions and what reads them."""
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path))
    name = keep_questions(
        Item(f"s/{n}", question, (f"one {n}", f"two | {n}"), 0)
        for n, question in enumerate(("First?\nIs *it*?", LONG, "\x1b[31mRed?"))
    )
    scores_a, scores_b = [[-1.0, -2.0], [-1.0, -2.5], [-1.0, -1.0]], [[-2.0, -1.5]] * 3
    a = choice_record("fp32", "AAA", "AAA", tied="001", log_likelihoods=scores_a, questions=name)
    b = choice_record("nf4", "BBB", "AAA", tied="000", log_likelihoods=scores_b, questions=name)
    content = (tmp_path / "questions" / name).read_bytes()
    return a, b, {f"items/{name}": content}.get


def test_text_shows_question_options_and_who_chose_what(pair: Any) -> None:
    a, b, read = pair
    text = show(a, b, read, nothing, 2)
    assert text.splitlines()[:4] == [
        "m[fp32] → m[nf4] mmlu: right in run A, wrong in run B",
        "acc (share of items right): 2 of 3 items, 0 the other way; ties, "
        "counted separately: 1 and 0",
        "",
        "1. s/1, moved by 2.000 nats",
    ]
    assert f"   Long {'x ' * 47}x\n" in text
    assert text.count(CUT.strip()) == 1
    assert "end?\n" in text
    assert text.count("x ") < 310 < LONG.count("x ")
    first = text.index("2. s/0, moved by 1.500 nats")
    assert text[first:].splitlines()[1:9] == [
        "   acc: run A says A (1.000 nats over B), run B says B (0.500 nats over A)",
        "   First?",
        "   Is *it*?",
        "   option       run A   run B  chosen by",
        "   A. one 0 ✓  -1.000  -2.000  run A (acc)",
        "   B. two | 0  -2.000  -1.500  run B (acc)",
        "",
        "ties, which the batch size alone can flip:",
    ]
    assert text.index("ties, which") < text.index("1. s/2, moved by 0.500 nats")
    assert "\x1b" not in text
    assert r"\x1b[31mRed?" in text


def test_what_is_not_shown_is_counted(pair: Any) -> None:
    a, b, read = pair
    assert "… 1 more; --flips 2 shows all" in show(a, b, read, read, 1)
    counts = show(a, b, read, read, 0)
    assert "2 of 3 items" in counts
    assert "s/1" not in counts
    assert "more" not in show(a, b, read, read, 2)


def test_markdown_has_an_escaped_table_of_options_per_item(pair: Any) -> None:
    a, b, read = pair
    lines = write_markdown(make(a, b, read, read, 5)).splitlines()
    assert lines[0] == r"### m\[fp32\] → m\[nf4\] mmlu: right in run A, wrong in run B"
    entry = lines.index(r"**2\. s/0, moved by 1.500 nats**")
    assert lines[entry + 4 : entry + 10] == [
        r"First?<br>Is \*it\*?",
        "",
        "| option | run A | run B | chosen by |",
        "| :-- | --: | --: | :-- |",
        "| A. one 0 ✓ | -1.000 | -2.000 | run A (acc) |",
        r"| B. two \| 0 | -2.000 | -1.500 | run B (acc) |",
    ]
    assert "\x1b" not in "".join(lines)


def test_plain_data_hold_everything_whole(pair: Any) -> None:
    a, b, read = pair
    found = json.loads(json.dumps(dump(a, b, nothing, read, 1)))
    assert (found["unavailable"], found["questions_unavailable"]) == (None, None)
    assert found["counts"][0]["harmful"] == 2
    (flip,) = found["harmful"]
    item = {"id": "s/1", "question": LONG, "choices": ["one 1", "two | 1"], "answer": 0}
    assert flip["item"] == item
    assert (flip["log_likelihoods_a"], flip["log_likelihoods_b"]) == ([-1.0, -2.5], [-2.0, -1.5])
    assert flip["changes"] == [
        {"metric": "acc", "a": "A", "b": "B", "margin_a": 1.5, "margin_b": 0.5}
    ]
    assert found["tied"][0]["item"]["question"] == "\x1b[31mRed?"


def test_without_questions_the_numbers_are_shown_and_what_is_missing(pair: Any) -> None:
    a, b, _ = pair
    data = json.dumps(dump(a, b, nothing, nothing, 1))
    texts = (
        show(a, b, nothing, nothing, 1),
        write_markdown(make(a, b, nothing, nothing, 1)),
    )
    for shown in (*texts, data):
        assert f"prompts unavailable: items/{a.items['questions']} is not there" in shown
        assert "-2.5" in shown
        assert "First" not in shown
    assert all("item 1 (s)" in text for text in texts)


def test_acc_norm_and_its_answers_are_named() -> None:
    text = show(*normed_pair(), nothing, nothing, 9)
    entry = text[text.index("item 2 (s)") :]
    assert "acc: run A says A (1.000 nats over B), run B says B (1.000 nats over A)\n" in entry
    assert "acc_norm (acc by log-likelihood per character): 2 of 4" in text
    assert "run A (acc, acc_norm)" in entry
    assert "run B (acc)\n" in entry
    assert "run B (acc_norm)" in entry


def test_generated_texts_and_single_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path))
    items = [Item("gsm8k/0", "How many?", (), "Count.\n#### 7")]
    name = keep_questions(items)
    read = {f"items/{name}": (tmp_path / "questions" / name).read_bytes()}.get
    a, b = gsm8k_record("fp32", ["7"], "1"), gsm8k_record("nf4", [None], "0")
    b = b.model_copy(update={"items": {**b.items, "questions": name}})
    text = show(a, b, nothing, read, 1)
    assert text.splitlines()[4:] == [
        "1. gsm8k/0",
        "   exact_match: run A says 7, run B says nothing",
        "   How many?",
        "   right: Count. #### 7",
        "   run A: fp32 says 7",
        "   run B: nf4 says None",
    ]
    a, b = lambada_record("fp32", "1", [-0.5]), lambada_record("nf4", "0", [-1.5])
    text = show(a, b, nothing, nothing, 1)
    assert "acc: run A is right, run B says something else" in text
    assert "log-likelihood of the right answer: run A -0.500, run B -1.500" in text


def test_a_record_without_log_likelihoods_still_shows_its_answers() -> None:
    a, b = choice_record("fp32", "A", "A"), choice_record("nf4", "C", "A")
    text = show(a, b, nothing, nothing, 1)
    assert "1. item 0 (s)\n   acc: run A says A, run B says C" in text


def read_quiz() -> dict[str, tuple[str, list[str], str]]:
    """Id -> question, options and letter of the shipped quiz, read without the harness."""
    rows = {}
    for path in QUIZ.glob("*_test.csv"):
        with path.open(newline="") as lines:
            for i, row in enumerate(csv.reader(lines)):
                rows[f"{path.stem.removesuffix('_test')}/{i}"] = (row[0], row[1:5], row[5])
    return rows


def check_flips(folder: Path, a: Record, b: Record, quiz: dict[str, Any]) -> None:
    """Every flip is shown with the question that the quiz has in that place, and its answers."""
    described = dump(a, b, nothing, lambda name: (folder / name).read_bytes(), limit=1_000)
    flips = [*described["harmful"], *described["tied"]]
    lost = [
        i
        for i, pair in enumerate(zip(a.items["right"], b.items["right"], strict=True))
        if pair == ("1", "0")
    ]
    assert sorted(flip["number"] for flip in flips) == lost
    assert lost
    assert len(lost) == b.paired["right_to_wrong"].value
    ids = [f"{s}/{i}" for s, n in a.items["subjects"].items() for i in range(n)]
    for flip in flips:
        item = flip["item"]
        question, choices, letter = quiz[item["id"]]
        assert item["id"] == ids[flip["number"]]
        assert (item["question"], list(item["choices"])) == (question, choices)
        (change,) = flip["changes"]
        assert change["a"] == letter == "ABCD"[item["answer"]]
        assert change["b"] == b.items["chosen"][flip["number"]] != letter


@pytest.mark.e2e
def test_the_prompts_shown_are_those_of_the_flipped_items(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.write("suites/q.yaml", SUITE)
    quiz = read_quiz()
    outcome = project.run("suites/q.yaml")
    assert outcome.code == 0, outcome.text
    records = find_records(project.last_run("q"))
    first, second = records["w[fp32]::mmlu"], records["w[nf4]::mmlu"]
    folder = project.run_paths("q")[-1].parent
    assert [path.name for path in (folder / "items").iterdir()] == [first.items["questions"]]
    assert second.items["questions"] == first.items["questions"]
    check_flips(folder, first, second, quiz)

    # Elsewhere, with the reference taken from the cache: its questions come along.
    outcome = project.run("suites/q.yaml", "--precision", "nf4", "--results", "elsewhere")
    assert outcome.code == 0, outcome.text
    (path,) = (tmp_path / "project/elsewhere/q").glob("*.json")
    run = json.loads(path.read_text())
    reused = {r["cell"]["id"]: Record.model_validate(r) for r in run["records"]}
    assert reused["w[fp32]"].reused_from is not None
    check_flips(path.parent, reused["w[fp32]"], reused["w[nf4]"], quiz)
    from_run, from_cache = (list_flips(a, second) for a in (first, reused["w[fp32]"]))
    assert from_run is not None
    assert from_run == from_cache
