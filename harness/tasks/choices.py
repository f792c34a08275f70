"""choices: a user's own multiple-choice questions, from a file and a prompt template.

Scored by the likelihood of each option's text behind the prompt. Options are not lettered: a
template that shows them, lettered, has them in fields of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.descriptions import Metric
from harness.errors import InputError
from harness.metrics.choice_values import NORMED_VALUES, compare_choices, headline
from harness.records.record import Measured
from harness.scoring.multiple_choice import LETTERS, Question, measure_questions
from harness.tasks.rows import (
    Row,
    RowOptions,
    build_questions,
    check_question,
    load_examples,
    load_rows,
)

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine

VALUES = NORMED_VALUES
HEADLINE = headline("choices")
compare = compare_choices

FieldName = Annotated[str, Field(min_length=1)]
FieldNames = Annotated[tuple[FieldName, ...], Field(min_length=2, strict=False)]


class Options(RowOptions):
    """``prompt`` is a template with fields in braces, ``{question}``; ``{{`` stands for a brace.

    ``options``: the field that holds the list of options, or the fields that hold one each.
    ``answer``: the field that holds the right one, as ``answer_is`` says: its index from 0, its
    number from 1, its letter or its text; without it, whichever of index, letter and text fits.
    ``subject``: a field to report by. ``examples`` holds answered questions for ``shots``.
    """

    prompt: str = Field(min_length=1)
    options: FieldName | FieldNames
    answer: FieldName
    answer_is: Literal["index", "number", "letter", "text"] | None = None
    subject: FieldName | None = None
    delimiter: str = " "
    unequal_options: bool = False

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, template: str) -> str:
        if not any(name is not None for _, name in parse_template(template)):
            raise ValueError(f"no field such as {{question}} in {template!r}")
        return template

    @model_validator(mode="after")
    def _check_examples(self) -> Options:
        if self.shots and self.examples is None:
            raise ValueError(
                f"shots: {self.shots} needs `examples:`, the file of the answered questions"
            )
        return self


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """The likeliest option of each question, and the likeliest per character (acc_norm)."""
    rows = load_rows(options.data, context, "test", options.limit)
    refuse_unclear_numbers(rows, options)
    questions = [make_question(row, options) for row in rows]
    if not options.unequal_options:
        check_counts(rows, questions)
    examples = load_examples(options, context) if options.shots else []
    asked = build_questions(rows, examples, options.shots, lambda row: make_question(row, options))
    subjects = list(dict.fromkeys(question.subject for question in questions))
    asked.sort(key=lambda question: subjects.index(question.subject))
    return measure_questions(engine, asked, options, context, VALUES)


def make_question(row: Row, options: Options) -> Question:
    """One row; raises `InputError` naming file, row and field of what is wrong with it."""
    texts = read_options(row, options)
    question = Question(
        id=row.where,
        subject=row.text(options.subject) if options.subject else "choices",
        prompt=fill_template(options.prompt, row),
        options=texts,
        answer=0,
        delimiter=options.delimiter,
    )
    check_question(row, question, _show_names(options.options))
    return replace(question, answer=read_answer(row, options, texts))


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """Pieces of text, each with the field behind it or None.

    Plain fields only: no index, no attribute, no conversion, no format. Raises ValueError.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error} in {template!r}; write {{{{ for a brace") from error
    for _, name, spec, conversion in parts:
        if name is not None and (not name.strip() or spec or conversion or set(name) & set(".[]")):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(
                f"{{{shown}}} is not a plain field such as {{question}}; write {{{{ for a brace"
            )
    return [(text, name) for text, name, _, _ in parts]


def fill_template(template: str, row: Row) -> str:
    """The template with the row's fields in it.

    Raises `InputError` where all of these are empty in a local file.
    """
    parts = parse_template(template)
    fields = {name: row.text(name) for _, name in parts if name is not None}
    if row.own and not any(text.strip() for text in fields.values()):
        raise InputError(f"{row.where}: field {_show_names(tuple(fields))} is empty")
    return "".join(text + (fields[name] if name is not None else "") for text, name in parts)


def read_options(row: Row, options: Options) -> tuple[str, ...]:
    """The texts of a row's options.

    Where numbers may be unequal, empty fields at the end are options that this row lacks.
    """
    names = options.options
    if isinstance(names, str):
        texts = list(row.texts(names))
    else:
        texts = [_read_cell(row, name, options.unequal_options) for name in names]
    while options.unequal_options and texts and not texts[-1].strip():
        texts.pop()
    return tuple(texts)


def read_answer(row: Row, options: Options, texts: Sequence[str]) -> int:
    """The index of the right option; raises `InputError` where it is out of range or ambiguous."""
    name, given = options.answer, row.value(options.answer)
    readings = _read_as(given, texts)
    wanted = [options.answer_is] if options.answer_is else ["index", "letter", "text"]
    found = {way: index for way in wanted if (index := readings[way]) is not None}
    if not found:
        hint = (
            ""
            if readings["number"] is None or options.answer_is
            else ("; where numbers start at 1, set `answer_is: number`")
        )
        raise InputError(
            f"{row.where}: field {name!r} holds {given!r}, which is the {' or '.join(wanted)} of "
            f"none of its {len(texts)} options{hint}"
        )
    if len(set(found.values())) > 1:
        ways = " and ".join(f"the {way} of option {i + 1}" for way, i in found.items())
        raise InputError(
            f"{row.where}: field {name!r} holds {given!r}, which is {ways}: set `answer_is:` to "
            f"{' or '.join(found)}"
        )
    return next(iter(found.values()))


def refuse_unclear_numbers(rows: Sequence[Row], options: Options) -> None:
    """Raise `InputError` where answers are numbers and none is 0: they may count from 1."""
    if options.answer_is is not None:
        return
    readings = [_read_as(row.value(options.answer), read_options(row, options)) for row in rows]
    indices = [found["index"] for found in readings]
    fits = all(found["number"] is not None for found in readings)
    if None not in indices and 0 not in indices and fits:
        raise InputError(
            f"{rows[0].where}: field {options.answer!r} holds "
            f"{rows[0].value(options.answer)!r}, and no row holds 0: set `answer_is: index` if "
            "answers count from 0, or `answer_is: number` if from 1"
        )


def check_counts(rows: Sequence[Row], questions: Sequence[Question]) -> None:
    """Raise `InputError` for unequal numbers of options."""
    for row, question in zip(rows, questions, strict=True):
        if len(question.options) != len(questions[0].options):
            raise InputError(
                f"{row.where}: {len(question.options)} options, and {len(questions[0].options)} "
                f"in {rows[0].where}; if that is meant, set `unequal_options: true`"
            )


def _show_names(names: str | Sequence[str]) -> str:
    return repr(names) if isinstance(names, str) else ", ".join(map(repr, names))


def _read_cell(row: Row, name: str, may_lack: bool) -> str:
    return "" if may_lack and row.fields.get(name, 0) is None else row.text(name)


def _read_as(given: Any, texts: Sequence[str]) -> dict[str, int | None]:
    """The index that each way of reading an answer gives, None where it gives none."""
    text = "" if isinstance(given, bool) else str(given).strip()
    number = int(text) if text.isascii() and text.isdigit() else -1
    letters = LETTERS[: len(texts)]
    stripped = [option.strip() for option in texts]
    return {
        "index": number if 0 <= number < len(texts) else None,
        "number": number - 1 if 1 <= number <= len(texts) else None,
        "letter": letters.find(text.upper()) if text and text.upper() in tuple(letters) else None,
        "text": stripped.index(text) if text in stripped else None,
    }


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
