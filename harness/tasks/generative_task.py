"""A generative task: the model writes its answer, which is read from the text and compared.

Examples are drawn anew for each question, from all of their file, as lm-evaluation-harness does.
Unlike there, a prompt that leaves no room for its answer is left out and counted, not cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.descriptions import MeasureContext, Metric, ValueSpec
from harness.metrics.choice_values import (
    compare_items,
    describe_flips,
    describe_pairs,
    describe_share,
    headline,
    summarise_rows,
    weigh_drop,
)
from harness.records.questions import KEY, Item, keep_questions
from harness.records.record import Measured, Value
from harness.records.values import make_values
from harness.tasks.rows import Row, leave_out, load_examples, load_rows, refuse_duplicates
from harness.tasks.shared import HOW, RowOptions, hash_items, make_measured

if TYPE_CHECKING:
    from harness.engines.base import Engine
    from harness.scoring.answers import Answers

# lm-evaluation-harness's seed for drawing examples.
_SEED = 1234
_NO_ANSWER = "[invalid]"
_SHOWN = 160

COUNTS = {
    "items": ValueSpec("items", None, "items answered"),
    "no_answer": ValueSpec("items", "lower", "answers in which none was found"),
    "unfinished": ValueSpec("items", "lower", "answers cut off at max_new_tokens"),
    "too_long": ValueSpec("items", "lower", "items left out: no room for prompt and answer"),
    "new_tokens": ValueSpec("tokens", None, "tokens generated"),
}


class GenerativeOptions(RowOptions):
    """``shots`` examples are drawn anew for each question, from all of ``examples``.

    ``max_new_tokens`` is the longest answer; ``batch_tokens`` holds prompts and their answers.
    """

    max_new_tokens: int = Field(256, ge=1)
    VARIED: ClassVar[int] = 8192


@dataclass(frozen=True)
class Problem:
    """A prompt and its published answer; ``question`` is what it asks, for a reader."""

    prompt: str
    answer: str
    question: str


@dataclass(frozen=True)
class Reading:
    """A way to find the answer in a text, None where there is none; ``help`` describes it."""

    help: str
    find: Callable[[str], str | None]


@dataclass(frozen=True)
class Rules:
    """How a task's answers end and are read.

    The ``readings`` are by the ending of their values' names, the first being "":
    ``exact_match``, ``exact_match_flexible``. The regular expressions ``ignored`` are removed from
    both sides before they are compared, whatever the case of their letters. ``is_answer`` says
    whether the last reading found one that counts.
    """

    stop: tuple[str, ...]
    readings: Mapping[str, Reading]
    ignored: tuple[str, ...] = ()
    is_answer: Callable[[str], bool] = bool

    def normalise(self, answer: str) -> str:
        """An answer as it is compared."""
        for pattern in self.ignored:
            answer = re.sub(pattern, "", answer)
        return answer.lower()


def generative_task(
    doc: str | None,
    options: type[GenerativeOptions],
    make_problem: Callable[[Row], Problem],
    rules: Rules,
    *,
    title: str,
    split: str = "test",
) -> Metric:
    """The task that has the rows of ``split`` answered as ``make_problem`` puts them."""
    specs, columns = describe_values(rules), headline(title, "exact_match")

    def measure(engine: Engine, options: GenerativeOptions, context: MeasureContext) -> Measured:
        from harness.scoring.answers import generate_texts

        problems = load_problems(options, context, make_problem, split)
        prompts = [problem.prompt for problem in problems]
        limits = options.max_new_tokens, rules.stop, options.batch_tokens
        answers = generate_texts(engine, prompts, *limits, context)
        values, items = score_answers(problems, answers, rules)
        items[KEY] = keep_questions(
            Item(f"{title}/{i}", problem.question, (), problem.answer)
            for i, problem in enumerate(problems)
        )
        hashed = hash_items((problem.prompt, problem.answer) for problem in problems)
        protocol = {"decoding": "greedy", "stop": list(rules.stop), "items_sha256": hashed}
        return make_measured(engine, options, values, items, protocol, list_doubts(values))

    return Metric(
        doc or "",
        options,
        specs,
        measure,
        columns,
        weighs=weigh_drop(columns),
        needs=frozenset({"answer"}),
        how=HOW,
        count_items=lambda options, context: len(
            load_problems(options, context, make_problem, split)
        ),
        compare=partial(compare_items, specs, normalise=rules.normalise),
    )


def list_doubts(values: Mapping[str, Value]) -> list[str]:
    """Why the shares of right answers may mean little."""
    counts = {name: int(values[name].value or 0) for name in COUNTS}
    reasons = []
    if counts["too_long"]:
        reasons.append(f"{counts['too_long']} prompts exceed the model's context; not answered")
    for name, what in (("no_answer", "hold no answer"), ("unfinished", "were cut off")):
        if counts[name] > counts["items"] / 2:
            reasons.append(f"{counts[name]} of {counts['items']} answers {what}")
    return reasons


def describe_values(rules: Rules) -> dict[str, ValueSpec]:
    """The values of a generative task: each reading's share, counts, what a precision costs."""
    shares = {
        f"exact_match{ending}": describe_share(reading.help, f"right{ending}", f"answers{ending}")
        for ending, reading in rules.readings.items()
    }
    pairs: dict[str, ValueSpec] = {}
    for ending in rules.readings:
        pairs |= describe_pairs(f"exact_match{ending}", ending)
    return {**shares, **COUNTS, **pairs, **describe_flips("exact_match")}


def load_problems(
    options: GenerativeOptions,
    context: MeasureContext,
    make_problem: Callable[[Row], Problem],
    split: str = "test",
) -> list[Problem]:
    """Every question after its examples, each of these with its answer and a blank line.

    A question that is itself among its examples gets others.
    """
    rows = load_rows(options.data, context, split, options.limit)
    asked = [make_problem(row) for row in rows]
    refuse_duplicates(rows, [problem.question for problem in asked], "question")
    examples = load_examples(options, context)
    draw = Random(_SEED)  # noqa: S311 - not for secrets
    problems = []
    for row, problem in zip(rows, asked, strict=True):
        shots = draw.sample(examples, options.shots)
        if any(shot.fields == row.fields for shot in shots):
            shots = draw.sample(leave_out(row, examples, options.shots), options.shots)
        answered = [make_problem(shot) for shot in shots]
        shown = "".join(f"{shot.prompt} {shot.answer}\n\n" for shot in answered)
        problems.append(Problem(shown + problem.prompt, problem.answer, problem.question))
    return problems


def score_answers(
    problems: Sequence[Problem], generated: Answers, rules: Rules
) -> tuple[dict[str, Value], dict[str, Any]]:
    """The values and the outcomes by item of a record."""
    from harness.scoring.scores import ExactMatch

    answers = generated.answers
    given = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
    items: dict[str, Any] = {"ids": "number in its data, in order"}
    found: list[str | None] = []
    for ending, reading in rules.readings.items():
        found = [reading.find(answer.text) for _, answer in given]
        outcome = ExactMatch().compute(
            predictions=[text or _NO_ANSWER for text in found],
            references=[problems[i].answer for i, _ in given],
            regexes_to_ignore=rules.ignored,
            ignore_case=True,
        )
        marks, texts = iter(outcome["matches"]), iter(found)
        items[f"right{ending}"] = "".join("-" if a is None else "01"[next(marks)] for a in answers)
        items[f"answers{ending}"] = [None if a is None else next(texts) for a in answers]
    items |= {
        "stopped": "".join("-" if a is None else a.stopped[0] for a in answers),
        "texts": [None if a is None else shorten(a.text) for a in answers],
        "cost": {"batch_tokens": generated.batch_tokens},
    }
    counts = {
        "items": len(given),
        "no_answer": sum(text is None or not rules.is_answer(text) for text in found),
        "unfinished": sum(answer.stopped == "length" for _, answer in given),
        "too_long": generated.too_long,
        "new_tokens": sum(len(answer.tokens) for _, answer in given),
    }
    return summarise_rows(describe_values(rules), items, {}) | make_values(COUNTS, counts), items


def shorten(text: str) -> str:
    """Beginning and end, where the answer is."""
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN // 4]} … {text[-(_SHOWN - _SHOWN // 4) :]}"
