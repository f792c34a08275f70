"""questions: what tasks ask is stored next to the run, word for word and once."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.engines.base import Engine
from harness.records.questions import (
    Item,
    Question,
    fetch_questions,
    keep_questions,
    open_questions,
    read_items,
)
from harness.records.record import Record
from harness.suite.data_source import DataSource
from harness.tasks import choices, gsm8k, hellaswag, lambada, mmlu, winogrande
from tests.support.cells_in_process import load, make_context, write_checkpoint
from tests.support.records import make_record

ITEMS = (
    Item("s/0", "What is “it”?\n\x1b[31m\u2028Answer:", ("yes", "no"), 1),
    Item("s/1", "Why? \ud83d", (), "because"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "questions"


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("cell")
    return load(write_checkpoint(folder, num_hidden_layers=1, max_position_embeddings=1024))


def record_of(name: Any, right: str = "10") -> Record:
    return make_record("mmlu", items={"right": right, "questions": name})


def reader(folder: Path) -> Any:
    return lambda name: (folder / name).read_bytes() if (folder / name).exists() else None


def test_items_come_back_as_they_were(cache: Path) -> None:
    name = keep_questions(ITEMS)
    assert tuple(read_items(name, (cache / name).read_bytes())) == ITEMS


def test_the_same_items_are_the_same_file_byte_for_byte_and_others_another(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = keep_questions(ITEMS)
    content = (cache / name).read_bytes()
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "other"))
    assert keep_questions(iter(ITEMS)) == name
    assert (tmp_path / "other" / "questions" / name).read_bytes() == content
    assert len({keep_questions(ITEMS[:1]), keep_questions(reversed(ITEMS)), name}) == 3
    assert [path.name for path in cache.iterdir()] == [name]  # and nothing half written


def test_a_run_keeps_them_when_the_cache_is_gone(cache: Path, tmp_path: Path) -> None:
    record = record_of(keep_questions(ITEMS))
    folder = tmp_path / "runs"
    fetch_questions(record, folder)
    shutil.rmtree(cache)
    fetch_questions(record, folder)
    found = open_questions(record, reader(folder))
    assert not isinstance(found, str), found
    assert tuple(found) == ITEMS
    assert [path.name for path in (folder / "items").iterdir()] == [record.items["questions"]]


def test_a_damaged_file_in_the_cache_is_not_copied_and_is_replaced(
    cache: Path, tmp_path: Path
) -> None:
    record = record_of(keep_questions(ITEMS))
    place = cache / record.items["questions"]
    place.write_bytes(place.read_bytes()[:-9])
    fetch_questions(record, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    keep_questions(ITEMS)
    fetch_questions(record, tmp_path / "runs")
    assert not isinstance(open_questions(record, reader(tmp_path / "runs")), str)


def test_a_damaged_file_next_to_a_run_is_replaced_by_the_next_run(tmp_path: Path) -> None:
    record = record_of(keep_questions(ITEMS))
    fetch_questions(record, tmp_path)
    place = tmp_path / "items" / record.items["questions"]
    place.write_bytes(b"")
    assert isinstance(open_questions(record, reader(tmp_path)), str)
    fetch_questions(record, tmp_path)
    assert not isinstance(open_questions(record, reader(tmp_path)), str)


def test_a_folder_that_cannot_be_written_is_no_error(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = record_of(keep_questions(ITEMS))
    fetch_questions(record, tmp_path / "file")
    cache.parent.rename(tmp_path / "elsewhere")
    cache.parent.write_text("no folder")
    assert keep_questions(ITEMS) == record.items["questions"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda content: None, "is not there"),
        (lambda content: b"", "is damaged"),
        (lambda content: b"{}", "is damaged: Not a gzipped file"),
        (lambda content: content[: len(content) // 2], "is damaged"),
        (lambda content: content[:-12] + b"\0" * 12, "is damaged"),
        (lambda content: gzip.compress(b"{}\n"), "is damaged: its content has changed"),
    ],
    ids=["missing", "empty", "no gzip", "cut", "overwritten", "another's"],
)
def test_questions_that_cannot_be_read_are_explained(cache: Path, spoil: Any, why: str) -> None:
    record = record_of(keep_questions(ITEMS))
    content = spoil((cache / record.items["questions"]).read_bytes())
    found = open_questions(record, lambda _: content)
    assert isinstance(found, str)
    assert found.startswith(f"items/{record.items['questions']} {why}")


def test_questions_of_another_number_of_items_are_not_shown(cache: Path) -> None:
    record = record_of(keep_questions(ITEMS), right="101")
    content = (cache / record.items["questions"]).read_bytes()
    found = open_questions(record, lambda _: content)
    assert str(found).endswith("holds 2 items, the record 3")


@pytest.mark.parametrize("name", ["../../secret", "items/0123456789abcdef.jsonl.gz", 3, ["x"]])
def test_a_run_file_cannot_name_another_file(tmp_path: Path, name: Any) -> None:
    def refuse(_: str) -> bytes:
        raise AssertionError("it was read")

    found = open_questions(record_of(name), refuse)
    assert found == f"{name!r} is not the name of a file of questions"
    fetch_questions(record_of(name), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_record_from_before_they_were_kept_says_so() -> None:
    found = open_questions(make_record("mmlu", items={"right": "1"}), lambda _: None)
    assert found == "the record names no file of them; it was measured before they were kept"


# What each task keeps


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def measure(task: Any, cell: Engine, folder: Path, cache: Path, **given: Any) -> list[Item]:
    for name in ("data", "examples"):
        if isinstance(given.get(name), str):
            given[name] = DataSource(path=given[name])
    measured = task.TASK.measure(cell, task.Options(**given), make_context(folder))
    name = measured.items["questions"]
    items = read_items(name, (cache / name).read_bytes())
    assert len(items) == len(measured.items["right"])
    return items


def test_mmlu_keeps_the_question_and_the_texts_of_its_letters(
    cell: Engine, tmp_path: Path, cache: Path
) -> None:
    for split, end in (("dev", "?"), ("test", "!")):
        (tmp_path / split).mkdir()
        for subject in ("b", "a"):
            rows = [f"{subject}{i}{end},w,x,y,z,{'ABCD'[i]}" for i in range(2)]
            (tmp_path / split / f"{subject}_{split}.csv").write_text("\n".join(rows))
    options = ("w", "x", "y", "z")
    for form in ("letters", "cloze"):
        found = measure(mmlu, cell, tmp_path, cache, data=".", shots=1, form=form)
        assert found == [
            Item(f"{subject}/{i}", f"{subject}{i}!", options, i)
            for subject in "ab"
            for i in range(2)
        ]


def test_examples_are_left_out_and_options_kept(cell: Engine, tmp_path: Path, cache: Path) -> None:
    def row(n: int) -> dict[str, Any]:
        endings = [f"e{n}", f"f{n}", f"g{n}", f"h{n}"]
        context = {"activity_label": "Jump", "ctx_a": f"One {n}.", "ctx_b": "he"}
        return {**context, "endings": endings, "label": str(n % 4)}

    data = write_jsonl(tmp_path / "test.jsonl", [row(n) for n in range(3)])
    examples = write_jsonl(tmp_path / "dev.jsonl", [row(n) for n in (7, 8, 9)])
    found = measure(hellaswag, cell, tmp_path, cache, data=data, examples=examples, shots=2)
    assert found == [
        Item(f"hellaswag/{n}", f"Jump: One {n}. He", (f"e{n}", f"f{n}", f"g{n}", f"h{n}"), n)
        for n in range(3)
    ]


def test_winogrande_keeps_its_sentence_and_what_may_fill_it(
    cell: Engine, tmp_path: Path, cache: Path
) -> None:
    row = {"sentence": "The _ was big.", "option1": "cat", "option2": "dog", "answer": "2"}
    data = write_jsonl(tmp_path / "w.jsonl", [row])
    shown = write_jsonl(tmp_path / "d.jsonl", [{**row, "sentence": "A _ ran."}])
    found = measure(winogrande, cell, tmp_path, cache, data=data, examples=shown, shots=1)
    assert found == [Item("winogrande/0", "The _ was big.", ("cat", "dog"), 1)]


def test_own_questions_keep_their_number_when_sorted_by_subject(
    cell: Engine, tmp_path: Path, cache: Path
) -> None:
    rows = [
        {"q": f"Q{n}", "o": ["yes", "no"], "a": n % 2, "s": subject}
        for n, subject in enumerate(("x", "y", "x", "y"))
    ]
    given = {"prompt": "{q}:", "options": "o", "answer": "a", "answer_is": "index"}
    data = write_jsonl(tmp_path / "own.jsonl", rows)
    found = measure(choices, cell, tmp_path, cache, data=data, subject="s", **given)
    assert [(item.id, item.question, item.answer) for item in found] == [
        ("x/0", "Q0:", 0),
        ("x/2", "Q2:", 0),
        ("y/1", "Q1:", 1),
        ("y/3", "Q3:", 1),
    ]


def test_lambada_keeps_passage_and_word(cell: Engine, tmp_path: Path, cache: Path) -> None:
    data = write_jsonl(tmp_path / "l.jsonl", [{"text": "He sat on the mat"}])
    found = measure(lambada, cell, tmp_path, cache, data=data)
    assert found == [Item("lambada/0", "He sat on the", (), "mat")]


def test_gsm8k_keeps_problem_and_published_answer(
    cell: Engine, tmp_path: Path, cache: Path
) -> None:
    rows = [{"question": f"How many is {n}?", "answer": f"Count.\n#### {n}"} for n in range(3)]
    data = write_jsonl(tmp_path / "g.jsonl", rows[:1])
    shown = write_jsonl(tmp_path / "t.jsonl", rows[1:])
    given: dict[str, Any] = {"shots": 1, "max_new_tokens": 2}
    found = measure(gsm8k, cell, tmp_path, cache, data=data, examples=shown, **given)
    assert found == [Item("gsm8k/0", "How many is 0?", (), "Count.\n#### 0")]


def test_a_question_shows_its_prompt_where_nothing_better_is_said() -> None:
    plain = Question("s/0", "s", "Why?", ("a", "b"), 1)
    assert plain.for_reader() == Item("s/0", "Why?", ("a", "b"), 1)
