"""Rows of an item set, read field by field, and the questions that a task makes of them.

Every published task and `choices` goes this way: rows -> one `Question` each -> answered examples
in front -> `measure_questions`. Examples are the first ones of their file, in its order, the same
for every question, so that they are computed once; lm-evaluation-harness does so with
``fewshot_config: {sampler: first_n}``, and draws others for each question by default.

A local file is checked as a user's own: nothing empty, no two options the same, no item twice. What
comes from the hub is published, oddities included, and scored as it is, as other tools do; only
what could not be scored is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from harness.catalog import describe_unknown
from harness.descriptions import ValueSpec
from harness.errors import InputError
from harness.records.record import Measured
from harness.scoring.multiple_choice import LETTERS, ChoiceOptions, Question, measure_questions
from harness.suite.data_source import DataSource

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine


class RowOptions(ChoiceOptions):
    """``shots`` are the first rows of ``examples``, by default of the hub dataset's train split.

    ``limit`` keeps the first n questions; ``batch_tokens`` go through the model at once.
    """

    examples: DataSource | None = None


@dataclass(frozen=True)
class Row:
    """The fields of one item; ``where`` names its file and row, ``own`` tells a local file's."""

    fields: Mapping[str, Any]
    where: str
    own: bool = True

    def value(self, name: str) -> Any:
        """A field as it is; raises `InputError` where it is missing or null."""
        if name not in self.fields:
            raise InputError(f"{self.where}: {describe_unknown('field', name, self.fields)}")
        if self.fields[name] is None:
            raise InputError(f"{self.where}: field {name!r} is missing")
        return self.fields[name]

    def text(self, name: str) -> str:
        """A field that holds a text, or a whole number, as a text."""
        return self._as_text(self.value(name), f"field {name!r}")

    def filled(self, name: str) -> str:
        """`text` that must not be empty in a local file."""
        text = self.text(name)
        if self.own and not text.strip():
            raise InputError(f"{self.where}: field {name!r} is empty")
        return text

    def texts(self, name: str, count: int | None = None) -> tuple[str, ...]:
        """A field that holds a list of texts, ``count`` of them unless it is None."""
        return self.check_texts(self.value(name), name, count)

    def check_texts(self, value: Any, name: str, count: int | None = None) -> tuple[str, ...]:
        """`texts` of a list that is not a field itself; ``name`` is for the error."""
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{self.where}: field {name!r} holds {value!r}, expected a list")
        if count is not None and len(value) != count:
            raise InputError(
                f"{self.where}: field {name!r} holds {len(value)} options, expected {count}"
            )
        return tuple(self._as_text(x, f"field {name!r}, option {i}") for i, x in enumerate(value))

    def index(self, name: str, known: Sequence[str]) -> int:
        """The place among ``known`` of what a field holds."""
        given = self.value(name)
        if isinstance(given, bool) or str(given).strip() not in tuple(known):
            raise InputError(f"{self.where}: {name} {given!r} is not one of {', '.join(known)}")
        return tuple(known).index(str(given).strip())

    def _as_text(self, value: Any, what: str) -> str:
        if type(value) is int:
            return str(value)
        if not isinstance(value, str):
            raise InputError(f"{self.where}: {what} holds {value!r}, expected a text")
        return value


def measure_rows(
    engine: Engine,
    options: RowOptions,
    context: MeasureContext,
    specs: Mapping[str, ValueSpec],
    make_question: Callable[[Row], Question],
    split: str = "test",
) -> Measured:
    """Ask each row of ``split`` as ``make_question`` puts it, behind the examples."""
    rows = load_rows(options.data, context, split, options.limit)
    examples = load_examples(options, context) if options.shots else []
    questions = build_questions(rows, examples, options.shots, make_question)
    return measure_questions(engine, questions, options, context, specs)


def load_rows(
    source: DataSource, context: MeasureContext, split: str, limit: int | None = None
) -> list[Row]:
    """The first ``limit`` rows, in their order; raises `InputError` where there are none."""
    from harness.scoring.data import load_rows as read

    own = source.locate(context.suite_folder)[0] != "hub"
    rows = [Row(*row, own) for row in islice(read(source, context, split), limit)]
    if not rows:
        raise InputError(f"{source.path!r} holds no rows")
    return rows


def load_examples(options: RowOptions, context: MeasureContext) -> list[Row]:
    """One row more than ``shots``, where there are as many: a question may be among them."""
    source = options.examples
    if source is None:
        if options.data.locate(context.suite_folder)[0] != "hub":
            raise InputError(
                f"{options.shots} shots were asked for, and {options.data.path!r} is a file of "
                "questions: name the file of the answered ones with `examples:`"
            )
        source = options.data.model_copy(update={"split": "train"})
    rows = load_rows(source, context, "train", options.shots + 1)
    if len(rows) < options.shots:
        raise InputError(
            f"{source.path!r} has {len(rows)} examples, {options.shots} shots were asked for"
        )
    return rows


def build_questions(
    rows: Sequence[Row],
    examples: Sequence[Row],
    shots: int,
    make_question: Callable[[Row], Question],
) -> list[Question]:
    """Each row's question behind the first ``shots`` examples, a blank line after each of them.

    A question that is itself among the examples is not shown to itself: the next one is. Raises
    `InputError` for an item that a local file holds twice, and for too few examples.
    """
    answered = [render_example(make_question(row)) for row in examples]
    asked = [make_question(row) for row in rows]
    refuse_duplicates(rows, asked)
    questions = []
    for i, (row, question) in enumerate(zip(rows, asked, strict=True)):
        others = [
            text
            for text, example in zip(answered, examples, strict=True)
            if example.fields != row.fields
        ]
        if len(others) < shots:
            raise InputError(
                f"{row.where}: there are {len(others)} examples besides this question, "
                f"{shots} shots were asked for"
            )
        shown = "".join(others[:shots])
        questions.append(
            replace(
                question,
                id=f"{question.subject}/{i}",
                prompt=shown + question.prompt,
                prompts=question.prompts and tuple(shown + prompt for prompt in question.prompts),
                asked=question.prompt if question.asked is None else question.asked,
            )
        )
    return questions


def check_question(row: Row, question: Question, field: str, distinct: bool = True) -> Question:
    """The question as it is; raises `InputError` naming row and ``field``, which holds its options.

    2 to 26 options; in a local file none of them empty and, where ``distinct``, no two the same
    behind the same prompt.
    """
    count = len(question.options)
    if not 2 <= count <= len(LETTERS):
        raise InputError(
            f"{row.where}: field {field} gives {count} options, expected 2 to {len(LETTERS)}"
        )
    if not row.own:
        return question
    seen: dict[tuple[str, str], int] = {}
    for i, option in enumerate(question.options):
        if not option.strip():
            raise InputError(f"{row.where}: field {field}: option {i + 1} is empty")
        first = seen.setdefault((question.prompt_of(i), option), i)
        if distinct and first != i:
            raise InputError(
                f"{row.where}: field {field}: options {first + 1} and {i + 1} are the same"
                + (f": {option!r}" if question.prompts is None else "")
            )
    return question


def refuse_duplicates(
    rows: Sequence[Row], questions: Sequence[Question], what: str = "prompt and options"
) -> None:
    """Raise `InputError` for a question that a local file holds twice, whatever its answer."""
    seen: dict[Any, Row] = {}
    for row, question in zip(rows, questions, strict=True):
        first = seen.setdefault((question.prompts or question.prompt, question.options), row)
        if row.own and first is not row:
            raise InputError(
                f"{row.where}: the same {what} as in {first.where}; each item counts "
                "once, remove one"
            )


def render_example(question: Question) -> str:
    """A question with its right answer, and the blank line that ends it."""
    answer = question.options[question.answer]
    return f"{question.prompt_of(question.answer)}{question.delimiter}{answer}\n\n"


def read_labelled(row: Row, count: int | None = None) -> tuple[tuple[str, ...], int]:
    """The texts of ``choices {text, label}`` and the place of the one ``answerKey`` names.

    Raises `InputError` also where two labels are the same.
    """
    choices = row.value("choices")
    if not isinstance(choices, Mapping):
        raise InputError(
            f"{row.where}: field 'choices' holds {choices!r}, expected lists 'text' and 'label'"
        )
    inside = Row(choices, f"{row.where}, choices", row.own)
    labels = inside.texts("label", count)
    if len(set(labels)) < len(labels):
        raise InputError(
            f"{inside.where}: field 'label' holds {', '.join(labels)}: two labels are the same"
        )
    return inside.texts("text", len(labels)), row.index("answerKey", labels)
