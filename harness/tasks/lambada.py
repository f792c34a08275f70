"""lambada: the last word of a passage, which only the whole passage gives away.

Paperno et al. 2016, https://arxiv.org/abs/1606.06031; 5,153 test items in the form OpenAI used for
GPT-2, as lambada_openai of lm-evaluation-harness: right is a word that greedy decoding would say.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from pydantic import Field

from harness.descriptions import Margin, Metric, ValueSpec
from harness.errors import InputError
from harness.metrics.choice_values import (
    ACC_MARGIN,
    CHOICE_VALUES,
    compare_choices,
    headline,
)
from harness.records.questions import KEY, Item, keep_questions
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values, to_value
from harness.scoring.multiple_choice import (
    ChoiceOptions,
    Question,
    Scored,
    hash_questions,
    score_questions,
)
from harness.scoring.prompts import prompt_protocol
from harness.statistics.estimates import clustered_ratio, exp_capped, share_interval
from harness.suite.data_source import DataSource
from harness.tasks.rows import Row, load_rows, refuse_duplicates

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine

_MARGIN = Margin(relative=0.01)
_NOT_OF_ONE_OPTION = ("acc_macro", "ties", "answer_change_rate")
VALUES = {
    "acc": ValueSpec(
        "",
        "higher",
        "share of last words that greedy decoding says",
        sampled="items",
        margin=ACC_MARGIN,
        row="right",
    ),
    "perplexity": ValueSpec(
        "",
        "lower",
        "exp(mean NLL of the last word, all its tokens)",
        sampled="items",
        margin=_MARGIN,
    ),
    **{
        name: spec
        for name, spec in CHOICE_VALUES.items()
        if name not in ("acc", *_NOT_OF_ONE_OPTION)
    },
    "perplexity_ratio": ValueSpec(
        "",
        "lower",
        "perplexity / the reference's, same items",
        paired=True,
        of="perplexity",
        neutral=1.0,
        sampled="items",
        margin=_MARGIN,
    ),
}
HEADLINE = headline("lambada")


class Options(ChoiceOptions):
    """``data`` has the published field: text. There are no shots."""

    data: DataSource = DataSource(path="EleutherAI/lambada_openai", name="default")
    shots: int = Field(0, ge=0, le=0)


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Whether the last word is the likeliest continuation, token by token, and how likely it is."""
    rows = load_rows(options.data, context, "test", options.limit)
    questions = [make_question(row, i) for i, row in enumerate(rows)]
    refuse_duplicates(rows, questions, "field 'text'")
    scored, cost = score_questions(engine, questions, options.batch_tokens, context)
    words = [None if s.log_likelihoods is None else s.log_likelihoods[0] for s in scored]
    too_long = words.count(None)
    if too_long == len(words):
        raise InputError(
            f"every passage is longer than the {engine.max_context} tokens of "
            f"{engine.job.model.name}"
        )
    reasons = [f"{too_long} passages exceed the model's context; not scored"] if too_long else []
    counts = {
        "items": len(words) - too_long,
        "too_long": too_long,
        "tokens_forwarded": cost.tokens_forwarded,
        "tokens_unique": cost.tokens_unique,
    }
    return Measured(
        values=summarise(scored) | make_values(VALUES, counts),
        protocol={
            **options.model_dump(exclude={"batch_tokens"}, mode="json"),
            **prompt_protocol(engine),
            "items_sha256": hash_questions(questions),
            "tokenizer_sha256": engine.job.files.tokenizer_sha256,
        },
        items={
            "ids": "number in its data, in order",
            KEY: keep_questions(
                Item(question.id, question.prompt, (), question.options[0].strip())
                for question in questions
            ),
            "right": "".join(
                "-" if word is None else "01"[s.greedy[0]]
                for word, s in zip(words, scored, strict=True)
            ),
            "log_likelihoods": words,
            "cost": {
                "tokens_padding": cost.tokens_padding,
                "passes": cost.passes,
                "batch_tokens": cost.batch_tokens,
            },
        },
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )


def make_question(row: Row, number: int) -> Question:
    """The text up to its last space, and what stands behind it.

    The space belongs to the word, also in a chat template, as in lm-evaluation-harness.
    """
    prompt, _, word = row.text("text").rpartition(" ")
    if not word:
        raise InputError(f"{row.where}: field 'text' ends with a space: which word is the last?")
    return Question(f"lambada/{number}", "lambada", prompt, (f" {word}",), 0, delimiter="")


def summarise(scored: list[Scored]) -> dict[str, Value]:
    """acc, and perplexity = exp(-mean log-likelihood of a word)."""
    answered = [s for s in scored if s.log_likelihoods is not None]
    right = sum(s.greedy[0] for s in answered)
    nats = [-s.log_likelihoods[0] for s in answered if s.log_likelihoods]
    return {
        "acc": to_value(VALUES["acc"], share_interval(right, len(answered))),
        **_exp_mean("perplexity", nats),
    }


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """The paired values of `compare_choices`, and exp of the mean difference in NLL of a word."""
    found = compare_choices(candidate, reference)
    ours, theirs = (side.items.get("log_likelihoods", []) for side in (candidate, reference))
    if not found or len(ours) != len(theirs):
        return found
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if None not in (a, b)]
    return found | _exp_mean("perplexity_ratio", [b - a for a, b in pairs])


def _exp_mean(name: str, nats: list[float]) -> dict[str, Value]:
    """exp of the mean over words, each of which is independent."""
    estimate = clustered_ratio(nats, [0.0] * len(nats), [1] * len(nats))
    if estimate is None:
        return make_values(VALUES, {name: exp_capped(fmean(nats))}, n={name: 1})
    return {name: to_value(VALUES[name], estimate)}


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
