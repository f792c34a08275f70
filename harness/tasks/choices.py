"""choices: a user's own multiple-choice questions, from a file and a prompt template.

Scored by the likelihood of each option's text after the prompt. Options are not lettered: a
template that shows them, lettered, has them in fields of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.descriptions import MeasureContext
from harness.metrics.choice_values import NORMED_VALUES, headline
from harness.records.questions import Question
from harness.tasks.choice_task import build_questions, question_task
from harness.tasks.rows import Row, load_examples, load_rows
from harness.tasks.shared import LETTERS, RowOptions

FieldName = Annotated[str, Field(min_length=1)]
FieldNames = Annotated[tuple[FieldName, ...], Field(min_length=2, strict=False)]


class Options(RowOptions):
    """``prompt`` is a template with fields in braces, ``{question}``; write ``{{`` for a brace.

    ``options``: the field that holds the list of options, or the fields that hold one each.
    ``answer``: the field that holds the right one, as ``answer_is`` says: its index from 0, its
    number from 1, its letter or its text; without it, text or letter, and no number.
    ``subject``: a field to report by. ``examples`` holds answered questions for ``shots``.
    """

    prompt: str = Field(min_length=1)
    options: FieldName | FieldNames
    answer: FieldName
    answer_is: Literal["index", "number", "letter", "text"] | None = None
    subject: FieldName | None = None
    delimiter: str = " "
    unequal_options: bool = False

    @model_validator(mode="after")
    def _check(self) -> Options:
        parse_template(self.prompt)
        if self.shots and self.examples is None:
            raise ValueError(
                f"shots: {self.shots} needs `examples:`, the file of the answered questions"
            )
        return self


def load_questions(options: Options, context: MeasureContext) -> list[Question]:
    """Each row of the file after its examples, those of one subject in a row."""
    rows = load_rows(options.data, context, "test", options.limit)
    examples = load_examples(options, context, options.shots + 1)
    make = partial(make_question, options=options)
    asked = build_questions(rows, examples, options.shots, make)
    counts = [len(question.options) for question in asked]
    for row, count in zip(rows, counts, strict=True):
        if count != counts[0] and not options.unequal_options:
            raise row.error(
                f"{count} options, and {counts[0]} in {rows[0].where}; if that is meant, set "
                "`unequal_options: true`"
            )
    subjects = list(dict.fromkeys(question.subject for question in asked))
    return sorted(asked, key=lambda question: subjects.index(question.subject))


def make_question(row: Row, options: Options) -> Question:
    """One row; raises `InputError` naming file, row and field of what is wrong with it."""
    texts = read_options(row, options)
    subject = row.text(options.subject) if options.subject else "choices"
    prompt = fill_template(options.prompt, row)
    names = (options.options,) if isinstance(options.options, str) else options.options
    row.check_options(texts, ", ".join(map(repr, names)))
    answer = read_answer(row, options, texts)
    return Question(row.where, subject, prompt, texts, answer, options.delimiter)


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """Pieces of text, each with the field after it or None.

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
    if all(name is None for _, name, _, _ in parts):
        raise ValueError(f"no field such as {{question}} in {template!r}")
    return [(text, name) for text, name, _, _ in parts]


def fill_template(template: str, row: Row) -> str:
    """The template with the row's fields, at least one of them not empty in a local file."""
    parts = parse_template(template)
    fields = {name: row.text(name) for _, name in parts if name is not None}
    if row.own and not any(text.strip() for text in fields.values()):
        raise row.error(f"field {', '.join(map(repr, fields))} is empty")
    return "".join(text + fields.get(name or "", "") for text, name in parts)


def read_options(row: Row, options: Options) -> tuple[str, ...]:
    """The texts of a row's options.

    Where numbers may be unequal, empty fields at the end are options that this row lacks.
    """
    names, unequal = options.options, options.unequal_options
    if isinstance(names, str):
        texts = row.texts(names)
    else:
        lacking = {name for name in names if unequal and row.fields.get(name, "") is None}
        texts = tuple("" if name in lacking else row.text(name) for name in names)
    while unequal and texts and not texts[-1].strip():
        texts = texts[:-1]
    return texts


def read_answer(row: Row, options: Options, texts: Sequence[str]) -> int:
    """The index of the right option; raises `InputError` where the field does not name one."""
    given, way = row.value(options.answer), options.answer_is
    text = "" if isinstance(given, bool) else str(given).strip()
    numbers = list(map(str, range(len(texts) + 1)))
    known = {
        "index": numbers[:-1],
        "number": numbers[1:],
        "letter": list(LETTERS[: len(texts)]),
        "text": [option.strip() for option in texts],
    }
    found = f"field {options.answer!r} holds {given!r}"
    if way is None and text.isdigit():
        raise row.error(
            f"{found}: set `answer_is: index` if answers count from 0, `answer_is: number` if from "
            "1, `answer_is: text` if it is the text of an option"
        )
    ways = [way] if way else ["letter", "text"]
    spelled = {each: text.upper() if each == "letter" else text for each in ways}
    places = {known[each].index(name) for each, name in spelled.items() if name in known[each]}
    if not places:
        kinds = " or ".join(ways)
        raise row.error(f"{found}, which is the {kinds} of none of its {len(texts)} options")
    if len(places) > 1:
        raise row.error(
            f"{found}, which is the letter of one option and the text of another: set `answer_is:` "
            "to letter or text"
        )
    return places.pop()


TASK = question_task(__doc__, Options, load_questions, NORMED_VALUES, headline("choices"))
