"""A generative task of a user's own: a prompt, a stop string and one way to read the answer."""

from __future__ import annotations

import json
from pathlib import Path

from harness.descriptions import Metric
from harness.engines.base import Answer
from harness.scoring.answers import Answers
from harness.tasks.generative_task import (
    GenerativeOptions,
    Problem,
    Reading,
    Rules,
    generative_task,
    score_answers,
)
from harness.tasks.rows import Row
from tests.support.cells_in_process import load, make_context, write_checkpoint
from tests.support.records import make_record

RULES = Rules(stop=("\n",), readings={"": Reading("right first words", lambda text: text[:5])})


def make_problem(row: Row) -> Problem:
    question = row.filled("asked")
    return Problem(f"{question} =", row.text("wanted"), question)


def make_task() -> Metric:
    return generative_task("doc", GenerativeOptions, make_problem, RULES, title="own")


def test_a_task_of_the_users_own_is_measured(tmp_path: Path) -> None:
    task = make_task()
    rows = ({"asked": f"{n} + {n}", "wanted": f"{2 * n}"} for n in range(3))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = task.options.model_validate({"data": "rows.jsonl", "max_new_tokens": 4})
    cell = load(write_checkpoint(tmp_path / "model"))
    measured = task.measure(cell, options, make_context(tmp_path))
    assert set(measured.values) == {name for name, spec in task.values.items() if not spec.paired}
    assert "exact_match_flexible" not in task.values
    assert measured.protocol["stop"] == ["\n"]
    assert len(measured.items["right"]) == measured.values["items"].value == 3
    reference = make_record("own", items=measured.items)
    assert task.compare(reference, reference)["answer_change_rate"].value == 0.0


def test_the_case_of_letters_does_not_count_and_an_empty_answer_is_none() -> None:
    problems = [Problem("p", "Paris", "q"), Problem("p", "Paris", "q")]
    answers = tuple(Answer((1,), text, "stop") for text in ("PARIS, France", ""))
    values, items = score_answers(problems, Answers(answers, 1), RULES)
    assert items["right"] == "10"
    assert values["no_answer"].value == 1
