"""mmlu: multiple-choice questions by subject, in the form MMLU was published in.

Hendrycks et al. 2021, https://arxiv.org/abs/2009.03300. The published files ask some questions
twice and have some options that are the same (us_foreign_policy, business_ethics and others;
https://github.com/hendrycks/test/issues/29): they are scored as they are, as other tools do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.descriptions import Metric
from harness.errors import InputError
from harness.metrics.choice_values import CHOICE_VALUES, compare_choices, headline
from harness.records.record import Measured
from harness.scoring.multiple_choice import LETTERS, ChoiceOptions, Question, measure_questions
from harness.suite.data_source import DataSource
from harness.tasks import rows as _rows

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine


class Options(ChoiceOptions):
    """``shots`` dev examples precede each question; ``limit`` keeps the first n per subject.

    ``form``: 'letters' shows the options and scores their letters, as published; 'cloze' shows none
    and scores their texts, which small models learn long before letters (Gu et al. 2024, OLMES,
    https://arxiv.org/abs/2406.08446).
    """

    data: DataSource = DataSource(path="cais/mmlu", name="all")
    form: Literal["letters", "cloze"] = "letters"
    shots: int = Field(5, ge=0)
    subjects: tuple[str, ...] | None = Field(None, min_length=1, strict=False)

    @property
    def qualifiers(self) -> tuple[str, ...]:
        """The subjects, where the suite chooses some."""
        return self.subjects or ()


VALUES = CHOICE_VALUES
HEADLINE = headline("mmlu")
compare = compare_choices


@dataclass(frozen=True)
class Row:
    """One line of a published MMLU file."""

    question: str
    choices: tuple[str, ...]
    answer: int


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Ask every question after its subject's dev examples; the likeliest letter is the answer."""
    subjects = load_subjects(options, context)
    questions = [
        question
        for subject, (dev, test) in subjects.items()
        for question in build_questions(
            subject, dev, test[: options.limit], options.shots, options.form
        )
    ]
    return measure_questions(
        engine, questions, options, context, VALUES, {"subjects": list(subjects)}
    )


def build_questions(
    subject: str, dev: Sequence[Row], test: Sequence[Row], shots: int, form: str = "letters"
) -> list[Question]:
    """The published prompt: a heading, ``shots`` answered examples, the question."""
    letters = form == "letters"
    if len(dev) < shots:
        raise InputError(
            f"mmlu: {subject} has {len(dev)} dev examples, {shots} shots were asked for"
        )
    title = subject.replace("_", " ")
    heading = f"The following are multiple choice questions (with answers) about {title}.\n\n"
    examples = "".join(
        f"{_render(row, letters)} {_answers(row, letters)[row.answer]}\n\n" for row in dev[:shots]
    )
    return [
        Question(
            id=f"{subject}/{i}",
            subject=subject,
            prompt=heading + examples + _render(row, letters),
            options=_answers(row, letters),
            answer=row.answer,
            asked=row.question.strip(),
            choices=row.choices,
        )
        for i, row in enumerate(test)
    ]


def load_subjects(
    options: Options, context: MeasureContext
) -> dict[str, tuple[list[Row], list[Row]]]:
    """Dev and test rows by subject, in alphabetical order of subjects."""
    kind, place = options.data.locate(context.suite_folder)
    if kind == "hub":
        dev, test = (_load_hub_split(options, context, split) for split in ("dev", "test"))
    else:
        dev, test = (_load_folder_split(Path(place), split) for split in ("dev", "test"))
    wanted = sorted(options.subjects or test)
    for subject in wanted:
        if subject not in test:
            raise InputError(f"mmlu: no subject {subject!r}; there are {', '.join(sorted(test))}")
    return {subject: (dev.get(subject, []), test[subject]) for subject in wanted}


def _answers(row: Row, letters: bool) -> tuple[str, ...]:
    return tuple(LETTERS[: len(row.choices)]) if letters else row.choices


def _render(row: Row, letters: bool) -> str:
    lines = [row.question.strip()]
    if letters:
        lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, row.choices, strict=False)]
    return "\n".join([*lines, "Answer:"])


def _load_folder_split(folder: Path, split: str) -> dict[str, list[Row]]:
    """``<folder>/<split>/<subject>_<split>.csv`` as published: question, A, B, C, D, answer."""
    from harness.scoring.data import load_text_tables

    suffix = f"_{split}.csv"
    files = {path.name.removesuffix(suffix): path for path in (folder / split).glob(f"*{suffix}")}
    if not files:
        raise InputError(f"mmlu: no {split}/<subject>_{split}.csv files in {folder}")
    names = ["question", *LETTERS[:4], "answer"]
    tables = load_text_tables({subject: str(path) for subject, path in files.items()}, names)
    return {
        subject: [
            _make_row(
                _rows.Row(
                    {**line, "choices": [line[c] for c in "ABCD"]},
                    f"mmlu: {files[subject].name}, row {i}",
                )
            )
            for i, line in enumerate(table, 1)
        ]
        for subject, table in tables.items()
    }


def _load_hub_split(options: Options, context: MeasureContext, split: str) -> dict[str, list[Row]]:
    from harness.scoring.data import load_hub

    return group_rows(load_hub(options.data, context, split), f"mmlu: {options.data.path} {split}")


def group_rows(lines: Iterable[Mapping[str, Any]], place: str) -> dict[str, list[Row]]:
    """The rows of a hub dataset by subject; ``place`` names the dataset and split in an error."""
    found: dict[str, list[Row]] = {}
    for i, line in enumerate(lines, 1):
        row = _rows.Row(line, f"{place}, row {i}", own=False)
        found.setdefault(row.text("subject"), []).append(_make_row(row))
    return found


def _make_row(row: _rows.Row) -> Row:
    """Check one item; raises `InputError` naming its file, row and field."""
    choices, answer = row.texts("choices"), row.value("answer")
    letters = LETTERS[: len(choices)]
    index = _find_letter(answer, letters) if isinstance(answer, str) else answer
    if type(index) is not int or not 0 <= index < len(choices):
        raise InputError(f"{row.where}: answer {answer!r} is not one of {', '.join(letters)}")
    if row.own and "" in choices:
        raise InputError(f"{row.where}: an option is empty")
    asked = Question(row.where, "mmlu", row.filled("question"), choices, index)
    _rows.check_question(row, asked, "'choices'", distinct=False)
    return Row(asked.prompt, choices, index)


def _find_letter(answer: str, letters: str) -> int:
    """The index of a single letter; -1 for anything else."""
    return letters.find(answer.strip()) if len(answer.strip()) == 1 else -1


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
