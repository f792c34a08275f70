"""mmlu: multiple-choice questions by subject, in the form MMLU was published in.

Hendrycks et al. 2021, https://arxiv.org/abs/2009.03300. The published files ask some questions
twice and have some options that are the same (us_foreign_policy, business_ethics and others;
https://github.com/hendrycks/test/issues/29): they are scored as they are, as other tools do.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.descriptions import MeasureContext
from harness.errors import InputError
from harness.metrics.choice_values import CHOICE_VALUES, headline
from harness.records.questions import Question
from harness.suite.data_source import DataSource
from harness.tasks.choice_task import question_task, render_answered
from harness.tasks.rows import Row, load_rows
from harness.tasks.shared import LETTERS, ItemOptions


class Options(ItemOptions):
    """``shots`` dev examples precede each question; ``limit`` keeps the first n per subject.

    ``form``: 'letters' shows the options and scores their letters, as published; 'cloze' shows none
    and scores their texts, which small models learn long before letters (Gu et al. 2024, OLMES,
    https://arxiv.org/abs/2406.08446).
    """

    data: DataSource = DataSource(path="cais/mmlu", name="all")
    form: Literal["letters", "cloze"] = "letters"
    shots: int = Field(5, ge=0)
    subjects: tuple[str, ...] | None = Field(None, min_length=1, strict=False)

    def list_qualifiers(self, per: str) -> tuple[str, ...] | None:
        """The subjects, where the suite chooses some."""
        return self.subjects


def load_questions(options: Options, context: MeasureContext) -> list[Question]:
    """Every question after its subject's dev examples, subjects in alphabetical order."""
    dev, test = (load_subjects(options.data, context, split) for split in ("dev", "test"))
    questions = []
    for subject in sorted(options.subjects or test):
        if subject not in test:
            raise InputError(f"mmlu: no subject {subject!r}; there are {', '.join(sorted(test))}")
        asked = test[subject][: options.limit]
        questions += build_questions(subject, dev.get(subject, []), asked, options)
    return questions


def build_questions(
    subject: str, dev: Sequence[Row], test: Sequence[Row], options: Options
) -> list[Question]:
    """The published prompt: a heading, ``shots`` answered examples, the question."""
    if len(dev) < options.shots:
        found = f"mmlu: {subject} has {len(dev)} dev examples"
        raise InputError(f"{found}, {options.shots} shots were asked for")
    title = subject.replace("_", " ")
    shown = f"The following are multiple choice questions (with answers) about {title}.\n\n"
    for row in dev[: options.shots]:
        shown += render_answered(make_question(row, options.form))
    asked = [make_question(row, options.form) for row in test]
    return [
        replace(question, id=f"{subject}/{i}", subject=subject, prompt=shown + question.prompt)
        for i, question in enumerate(asked)
    ]


def make_question(row: Row, form: str = "letters") -> Question:
    """Question, choices and answer, a letter or an index; `InputError` for a malformed row."""
    choices, given = row.texts("choices"), row.value("answer")
    letters = tuple(LETTERS[: len(choices)])
    is_index = type(given) is int and 0 <= given < len(choices)
    answer = given if is_index else row.index("answer", letters)
    asked = row.filled("question").strip()
    row.check_options(choices, "'choices'", distinct=False)
    lines = [f"{letter}. {text}" for letter, text in zip(letters, choices, strict=True)]
    prompt = "\n".join([asked, *(lines if form == "letters" else ()), "Answer:"])
    options = letters if form == "letters" else choices
    return Question(row.where, "", prompt, options, answer, asked=asked, choices=choices)


def load_subjects(source: DataSource, context: MeasureContext, split: str) -> dict[str, list[Row]]:
    """The rows of the dev or test split by subject.

    Locally they are files ``<folder>/<split>/<subject>_<split>.csv`` as published, without a
    heading: question, A, B, C, D, answer.
    """
    kind, place = source.locate(context.suite_folder)
    found: dict[str, list[Row]] = {}
    if kind == "hub":
        for row in load_rows(source.model_copy(update={"split": split}), context, split):
            found.setdefault(row.text("subject"), []).append(row)
        return found
    from harness.scoring.data import read_csv

    suffix, columns = f"_{split}.csv", ("question", *LETTERS[:4], "answer")
    for path in Path(place, split).glob(f"*{suffix}"):
        found[path.name.removesuffix(suffix)] = [
            Row({**fields, "choices": [fields[letter] for letter in LETTERS[:4]]}, where)
            for fields, where in read_csv(path, columns)
        ]
    if not found:
        raise InputError(f"mmlu: no {split}/<subject>_{split}.csv files in {place}")
    return found


TASK = question_task(
    __doc__,
    Options,
    load_questions,
    CHOICE_VALUES,
    headline("mmlu"),
    protocol=lambda questions: {"subjects": list(dict.fromkeys(q.subject for q in questions))},
)
