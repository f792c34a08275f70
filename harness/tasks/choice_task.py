"""A multiple-choice task: rows become questions, each option is scored, the likeliest is chosen.

Examples are the first ones of their file, in its order, the same for every question, so that they
are computed once; lm-evaluation-harness does so with ``fewshot_config: {sampler: first_n}``, and
draws others for each question by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.descriptions import Column, MeasureContext, Metric, ValueSpec
from harness.errors import InputError
from harness.metrics.choice_values import (
    CHOICE_VALUES,
    NORMED_VALUES,
    compare_items,
    headline,
    summarise_rows,
    weigh_drop,
)
from harness.records.questions import KEY, Question, keep_questions
from harness.records.record import Measured, Record, Value
from harness.records.values import make_values
from harness.tasks.rows import Row, leave_out, load_examples, load_rows, refuse_duplicates
from harness.tasks.shared import HOW, LETTERS, ItemOptions, RowOptions, hash_items, make_measured

if TYPE_CHECKING:
    from harness.engines.base import Engine
    from harness.scoring.multiple_choice import Scored

# Of how the items were computed; no number depends on it.
_COSTS = ("tokens_padding", "passes", "batch_tokens")


def choice_task(
    doc: str | None,
    options: type[RowOptions],
    make_question: Callable[[Row], Question],
    *,
    title: str,
    split: str = "test",
    normed: bool = True,
) -> Metric:
    """The task that asks each row of ``split`` as ``make_question`` puts it, after the examples.

    ``title`` heads its column of the summary; ``normed``: also by log-likelihood per character.
    """

    def load(options: RowOptions, context: MeasureContext) -> list[Question]:
        rows = load_rows(options.data, context, split, options.limit)
        # One more than needed: a question may be among them.
        examples = load_examples(options, context, options.shots + 1)
        return build_questions(rows, examples, options.shots, make_question)

    columns = headline(title, "acc_norm", "_norm") if normed else headline(title)
    return question_task(doc, options, load, NORMED_VALUES if normed else CHOICE_VALUES, columns)


def question_task(
    doc: str | None,
    options: type[ItemOptions],
    load_questions: Callable[[Any, MeasureContext], Sequence[Question]],
    specs: Mapping[str, ValueSpec],
    columns: Sequence[Column],
    *,
    list_items: Callable[[Sequence[Scored]], dict[str, Any]] | None = None,
    more_values: Callable[[Mapping[str, Any]], dict[str, Value]] = lambda items: {},
    protocol: Callable[[Sequence[Question]], Mapping[str, Any]] = lambda questions: {},
    compare: Callable[[Record, Record], dict[str, Value]] | None = None,
) -> Metric:
    """The task that scores what ``load_questions(options, context)`` returns.

    Questions of one subject are in a row. ``list_items`` gives the record's rows, by default what
    was chosen; ``more_values`` what follows from them besides the shares that ``specs`` describes;
    ``protocol`` what else the numbers depend on.
    """

    def measure(engine: Engine, options: ItemOptions, context: MeasureContext) -> Measured:
        from harness.scoring.multiple_choice import score_questions

        questions = load_questions(options, context)
        scored, cost = score_questions(engine, questions, options.batch_tokens, context)
        too_long = sum(s.log_likelihoods is None for s in scored)
        if too_long == len(scored):
            raise InputError(
                f"every {options.shots}-shot prompt is longer than the {engine.max_context} tokens "
                f"of {engine.job.model.name}" + ("; use fewer shots" if options.shots else "")
            )
        reasons = [f"{too_long} prompts exceed the model's context; not scored"] if too_long else []
        if cost.unshared:
            reasons.append(f"shared prefixes computed again for each prompt: {cost.unshared}")
        counts = {
            "items": len(scored) - too_long,
            "ties": sum(s.tied for s in scored),
            "too_long": too_long,
            "tokens_forwarded": cost.tokens_forwarded,
            "tokens_unique": cost.tokens_unique,
        }
        items = list_items(scored) if list_items else list_choices(scored, "acc_norm" in specs)
        values = summarise_rows(specs, items, items.get("subjects", {})) | more_values(items)
        values |= make_values(specs, {name: n for name, n in counts.items() if name in specs})
        items[KEY] = keep_questions(question.for_reader() for question in questions)
        items["cost"] = {name: getattr(cost, name) for name in _COSTS}
        hashed = hash_items(
            (q.id, q.subject, q.prompts or q.prompt, q.delimiter, q.options, q.answer)
            for q in questions
        )
        facts = {**protocol(questions), "items_sha256": hashed}
        return make_measured(engine, options, values, items, facts, reasons)

    return Metric(
        doc or "",
        options,
        specs,
        measure,
        columns,
        weighs=weigh_drop(columns),
        needs=frozenset({"score_targets"}),
        how=HOW,
        count_items=lambda options, context: len(load_questions(options, context)),
        compare=compare or partial(compare_items, specs),
    )


def list_choices(scored: Sequence[Scored], normed: bool) -> dict[str, Any]:
    """What was chosen of each question and whether it is right; ``normed``: per character, too."""
    items: dict[str, Any] = {
        "ids": "subject/number in its data, in order",
        "subjects": dict(Counter(s.question.subject for s in scored)),
        "chosen": mark_items(scored, LETTERS, lambda s: s.chosen or 0),
        "right": mark_items(scored, "01", lambda s: s.right),
        "correct": mark_items(scored, LETTERS, lambda s: s.question.answer),
        "tied": "".join("01"[s.tied] for s in scored),
        # For reading; what is chosen was chosen before they were shortened.
        "log_likelihoods": [
            None if s.log_likelihoods is None else [round(x, 5) for x in s.log_likelihoods]
            for s in scored
        ],
    }
    if normed:
        items["chosen_norm"] = mark_items(scored, LETTERS, lambda s: s.chosen_norm or 0)
        items["right_norm"] = mark_items(scored, "01", lambda s: s.right_norm)
    return items


def mark_items(scored: Sequence[Scored], letters: str, pick: Callable[[Scored], int]) -> str:
    """One character of ``letters`` per item, ``-`` where it was not scored."""
    return "".join("-" if s.log_likelihoods is None else letters[pick(s)] for s in scored)


def build_questions(
    rows: Sequence[Row],
    examples: Sequence[Row],
    shots: int,
    make_question: Callable[[Row], Question],
) -> list[Question]:
    """Each row's question after the first ``shots`` examples, a blank line after each of them.

    A question that is itself among the examples is not shown to itself: the next one is. Raises
    `InputError` for an item that a local file holds twice, and for too few examples.
    """
    asked = [make_question(row) for row in rows]
    keys = [(question.prompts or question.prompt, question.options) for question in asked]
    refuse_duplicates(rows, keys, "prompt and options")
    answered = {example.where: render_answered(make_question(example)) for example in examples}
    questions = []
    for i, (row, question) in enumerate(zip(rows, asked, strict=True)):
        others = leave_out(row, examples, shots)[:shots]
        shown = "".join(answered[example.where] for example in others)
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


def render_answered(question: Question) -> str:
    """The question as an example: with its right answer, and the blank line that ends it."""
    right = question.answer
    return f"{question.prompt_of(right)}{question.delimiter}{question.options[right]}\n\n"
