"""gsm8k: grade-school word problems, answered at length, the final number compared.

Cobbe et al. 2021, https://arxiv.org/abs/2110.14168; 1,319 test items. Prompts, examples, stop
strings, filters and the comparison are those of lm-evaluation-harness's task `gsm8k`, version 3.
Unlike there, a prompt that leaves no room for its answer is left out and counted, not cut.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.descriptions import Column, Metric, ValueSpec
from harness.errors import InputError
from harness.metrics.choice_values import ACC_MARGIN, compare_outcomes, to_values
from harness.records.questions import KEY, Item, keep_questions
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values
from harness.statistics.estimates import share_interval
from harness.suite.data_source import DataSource
from harness.tasks.rows import Row, RowOptions, load_rows

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Answer, Engine
    from harness.scoring.answers import Answers


STOP = ("Question:", "</s>", "<|im_end|>")
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")
# lm-evaluation-harness's seed for drawing examples.
_SEED = 1234
_NO_ANSWER = "[invalid]"
_SHOWN = 160


class Options(RowOptions):
    """``shots`` examples are drawn anew for each question, from all of ``examples``.

    They are by default the hub dataset's train split. ``limit`` keeps the first n questions.
    ``max_new_tokens`` is the longest answer; as many prompts go together as fit into
    ``batch_tokens`` with their answers, fewer where memory runs out.
    """

    data: DataSource = DataSource(path="openai/gsm8k", name="main")
    shots: int = Field(5, ge=0)
    max_new_tokens: int = Field(256, ge=1)
    batch_tokens: int = Field(16384, ge=1)


_STRICT, _FLEXIBLE = "exact_match", "exact_match_flexible"


def _share(better: Any, text: str, **more: Any) -> ValueSpec:
    return ValueSpec("", better, text, sampled="items", **more)


def _paired(better: Any, text: str, of: str = _STRICT, **more: Any) -> ValueSpec:
    return _share(better, text, paired=True, of=of, **more)


def _drop(of: str) -> ValueSpec:
    return _paired("lower", "reference - own, same items", of, margin=ACC_MARGIN)


def _count(better: Any, text: str) -> ValueSpec:
    return ValueSpec("items", better, text, paired=True, of=_STRICT)


VALUES = {
    _STRICT: _share(
        "higher",
        "right numbers behind '####' (strict-match)",
        margin=ACC_MARGIN,
        row="right",
        answers="answers",
    ),
    _FLEXIBLE: _share(
        "higher",
        "right last numbers (flexible-extract)",
        margin=ACC_MARGIN,
        row="right_flexible",
        answers="answers_flexible",
    ),
    "items": ValueSpec("items", None, "items answered"),
    "no_answer": ValueSpec("items", "lower", "answers without any number"),
    "unfinished": ValueSpec("items", "lower", "answers cut off at max_new_tokens"),
    "too_long": ValueSpec("items", "lower", "items left out: no room for prompt and answer"),
    "new_tokens": ValueSpec("tokens", None, "tokens generated"),
    "accuracy_drop": _drop(_STRICT),
    "retention": _paired("higher", "own / reference, same items", neutral=1.0),
    "flip_rate": _paired("lower", "items right on one side only"),
    "answer_change_rate": _paired("lower", "items with another strict number, or none"),
    "right_to_wrong": _count("lower", "right in the reference only"),
    "wrong_to_right": _count(None, "right in the candidate only"),
    "accuracy_flexible_drop": _drop(_FLEXIBLE),
    "retention_flexible": _paired("higher", "own / reference, same items", _FLEXIBLE, neutral=1.0),
}
HEADLINE = (
    Column("gsm8k", "exact_match", ".3f"),
    Column("drop", "accuracy_drop", "+.3f", stderr=True),
)


@dataclass(frozen=True)
class Problem:
    """A prompt and the answer it was published with, reasoning included.

    ``question`` is what the prompt asks, without examples.
    """

    prompt: str
    answer: str
    question: str = ""


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Let the model write each answer greedily and compare the number it ends with."""
    from harness.scoring.answers import generate_texts
    from harness.scoring.prompts import prompt_protocol

    problems = load_problems(options, context)
    generation = generate_texts(
        engine,
        [problem.prompt for problem in problems],
        options.max_new_tokens,
        STOP,
        options.batch_tokens,
        context,
    )
    values, items = score_answers(problems, generation)
    too_long = generation.too_long
    reasons = [f"{too_long} prompts exceed the model's context; not answered"] if too_long else []
    answered = len(problems) - too_long
    for name, what in (("no_answer", "hold no number"), ("unfinished", "were cut off")):
        count = values[name].value or 0
        if count > answered / 2:  # what is right and wrong among them says little
            reasons.append(f"{count} of {answered} answers {what}")
    return Measured(
        values=values,
        protocol={
            **options.model_dump(exclude={"batch_tokens"}, mode="json"),
            **prompt_protocol(engine),
            "decoding": "greedy",
            "stop": list(STOP),
            "items_sha256": hash_problems(problems),
            "tokenizer_sha256": engine.job.files.tokenizer_sha256,
        },
        items=items,
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """What the same items' outcomes give beside the reference's, by either way of reading them."""
    ours, theirs = candidate.items, reference.items
    found = compare_outcomes(ours.get("right", ""), theirs.get("right", ""))
    flexible = compare_outcomes(ours.get("right_flexible", ""), theirs.get("right_flexible", ""))
    if flexible:
        found["accuracy_flexible_drop"] = flexible["accuracy_drop"]
        found["retention_flexible"] = flexible["retention"]
    if found:
        same = _mark_same(ours, theirs)
        found["answer_change_rate"] = compare_outcomes(same, "1" * len(same))["flip_rate"]
    return to_values(VALUES, found)


def _mark_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """One character per item: 1 where both sides give the same number, - where one gives none."""
    sides = [
        [
            None if mark == "-" else re.sub(r"[,$]|\.$", "", number or "")
            for mark, number in zip(side["right"], side["answers"], strict=True)
        ]
        for side in (ours, theirs)
    ]
    return "".join("-" if None in (a, b) else "01"[a == b] for a, b in zip(*sides, strict=True))


def load_problems(options: Options, context: MeasureContext) -> list[Problem]:
    """Every question behind its examples, each followed by its answer and a blank line."""
    rows = load_rows(options.data, context, "test", options.limit)
    if options.data.locate(context.suite_folder)[0] != "hub":
        _refuse_duplicates(rows)
    examples = _load_examples(options, context) if options.shots else []
    draw = Random(_SEED)  # noqa: S311 - not for secrets
    problems = []
    for row in rows:
        shots = draw.sample(examples, options.shots)
        if any(shot.fields == row.fields for shot in shots):  # the question itself, answered
            others = [example for example in examples if example.fields != row.fields]
            if len(others) < options.shots:
                raise InputError(
                    f"gsm8k: {row.where}: there are {len(others)} examples besides this "
                    f"question, {options.shots} shots were asked for"
                )
            shots = draw.sample(others, options.shots)
        shown = "".join(f"{_ask(shot)} {_read_answer(shot)}\n\n" for shot in shots)
        problems.append(Problem(shown + _ask(row), _read_answer(row), row.text("question")))
    return problems


def find_strict(text: str) -> str | None:
    """The first number behind '####', as the examples end."""
    found = STRICT.findall(text)
    return found[0].strip() if found else None


def find_flexible(text: str) -> str | None:
    """The last number anywhere, with what looks like a part of it."""
    found = FLEXIBLE.findall(text)
    return "".join(found[-1]).strip() if found else None


def score_answers(
    problems: Sequence[Problem], generation: Answers
) -> tuple[dict[str, Value], dict[str, Any]]:
    """The values and the per-item outcomes of a record."""
    answers = generation.answers
    strict = [None if a is None else find_strict(a.text) for a in answers]
    flexible = [None if a is None else find_flexible(a.text) for a in answers]
    right = _mark(problems, answers, strict)
    right_flexible = _mark(problems, answers, flexible)
    given = [(a, number) for a, number in zip(answers, flexible, strict=True) if a is not None]
    rows = {
        name: [mark == "1" for mark in marks if mark != "-"]
        for name, marks in ((_STRICT, right), (_FLEXIBLE, right_flexible))
    }
    counts = {
        "items": len(given),
        "no_answer": sum(not _has_digit(number) for _, number in given),
        "unfinished": sum(a.stopped == "length" for a, _ in given),
        "too_long": generation.too_long,
        "new_tokens": sum(len(a.tokens) for a, _ in given),
    }
    shares = {name: share_interval(sum(row), len(row)) for name, row in rows.items()}
    values = to_values(VALUES, shares) | make_values(VALUES, counts)
    items = {
        "ids": "number in its data, in order",
        KEY: keep_questions(
            Item(f"gsm8k/{i}", problem.question, (), problem.answer)
            for i, problem in enumerate(problems)
        ),
        "right": right,
        "right_flexible": right_flexible,
        "answers": strict,
        "answers_flexible": flexible,
        "stopped": "".join("-" if a is None else a.stopped[0] for a in answers),
        "texts": [None if a is None else _shorten(a.text) for a in answers],
        "cost": {"batch_tokens": generation.batch_tokens},
    }
    return values, items


def hash_problems(problems: Sequence[Problem]) -> str:
    """One hash of every prompt and answer: equal hashes mean the same items."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(repr((problem.prompt, problem.answer)).encode())
    return digest.hexdigest()


def _mark(
    problems: Sequence[Problem],
    answers: Sequence[Answer | None],
    numbers: Sequence[str | None],
) -> str:
    """One character per item: 1 right, 0 wrong, - not answered."""
    from harness.scoring.scores.exact_match import ExactMatch

    scored = [i for i, answer in enumerate(answers) if answer is not None]
    outcome = ExactMatch().compute(
        predictions=[numbers[i] or _NO_ANSWER for i in scored],
        references=[problems[i].answer for i in scored],
        regexes_to_ignore=IGNORED,
        ignore_case=True,
    )
    marks = ["-"] * len(answers)
    for i, match in zip(scored, outcome["matches"], strict=True):
        marks[i] = "01"[match]
    return "".join(marks)


def _has_digit(number: str | None) -> bool:
    return number is not None and any(c in "0123456789" for c in number)


def _ask(row: Row) -> str:
    return f"Question: {row.filled('question')}\nAnswer:"


def _read_answer(row: Row) -> str:
    answer = row.text("answer")
    if not _has_digit(find_strict(answer)):
        raise InputError(
            f"gsm8k: {row.where}: answer {_shorten(answer)!r} has no line '#### number'"
        )
    return answer


def _load_examples(options: Options, context: MeasureContext) -> list[Row]:
    source = options.examples
    if source is None:
        if options.data.locate(context.suite_folder)[0] != "hub":
            raise InputError(
                f"gsm8k: {options.shots} shots were asked for, and {options.data.path!r} is a file "
                "of questions: name a file of others with `examples:`, or set `shots: 0`"
            )
        source = options.data.model_copy(update={"split": "train"})
    examples = load_rows(source, context, "train")
    if len(examples) < options.shots:
        raise InputError(
            f"gsm8k: {source.path!r} has {len(examples)} examples, "
            f"{options.shots} shots were asked for"
        )
    return examples


def _refuse_duplicates(rows: Sequence[Row]) -> None:
    seen: dict[str, str] = {}
    for row in rows:
        question = row.text("question")
        if question in seen:
            raise InputError(
                f"gsm8k: {row.where} asks what {seen[question]} asks: one of them counts twice"
            )
        seen[question] = row.where


def _shorten(text: str) -> str:
    """Beginning and end, where the answer is."""
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN // 4]} … {text[-(_SHOWN - _SHOWN // 4) :]}"


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"answer"}),
    compare=compare,
)
