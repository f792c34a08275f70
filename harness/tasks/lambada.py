"""lambada: the last word of a passage, which only the whole passage gives away.

Paperno et al. 2016, https://arxiv.org/abs/1606.06031; 5,153 test items in the form OpenAI used for
GPT-2, as lambada_openai of lm-evaluation-harness: right is a word that greedy decoding would say.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.descriptions import Margin, MeasureContext, ValueSpec
from harness.metrics.choice_values import (
    COUNTS,
    compare_items,
    describe_flips,
    describe_pairs,
    describe_share,
    headline,
)
from harness.records.questions import Question
from harness.records.record import Record, Value
from harness.records.values import make_values, to_value
from harness.statistics.estimates import clustered_interval, exp_capped
from harness.suite.data_source import DataSource
from harness.tasks.choice_task import mark_items, question_task
from harness.tasks.rows import Row, load_rows, refuse_duplicates
from harness.tasks.shared import ItemOptions

if TYPE_CHECKING:
    from harness.scoring.multiple_choice import Scored

_SPREAD: dict[str, Any] = {"sampled": "items", "margin": Margin(relative=0.01)}
_RATIO = "perplexity / the reference's, same items"
_FLIPS = describe_flips("acc")
del _FLIPS["answer_change_rate"]
VALUES = {
    "acc": describe_share("share of last words that greedy decoding says", "right", None),
    "perplexity": ValueSpec(
        "", "lower", "exp(mean NLL of the whole last word)", lists=("log_likelihoods",), **_SPREAD
    ),
    **COUNTS,
    **describe_pairs("acc"),
    **_FLIPS,
    "perplexity_ratio": ValueSpec(
        "", "lower", _RATIO, paired=True, of="perplexity", neutral=1.0, **_SPREAD
    ),
}


class Options(ItemOptions):
    """``data`` has the published field: text. There are no shots."""

    data: DataSource = DataSource(path="EleutherAI/lambada_openai", name="default")
    shots: int = Field(0, ge=0, le=0)


def load_questions(options: Options, context: MeasureContext) -> list[Question]:
    """Each passage without its last word, and that word."""
    rows = load_rows(options.data, context, "test", options.limit)
    questions = [make_question(row, i) for i, row in enumerate(rows)]
    refuse_duplicates(rows, [(q.prompt, q.options) for q in questions], "field 'text'")
    return questions


def make_question(row: Row, number: int) -> Question:
    """The text up to its last space, and the word after it.

    The space belongs to the word, also in a chat template, as in lm-evaluation-harness.
    """
    prompt, _, word = row.text("text").rpartition(" ")
    if not word:
        raise row.error("field 'text' ends with a space: which word is the last?")
    return Question(f"lambada/{number}", "lambada", prompt, (f" {word}",), 0, delimiter="")


def list_items(scored: Sequence[Scored]) -> dict[str, Any]:
    """Whether the last word is the likeliest continuation, token by token, and how likely it is."""
    return {
        "ids": "number in its data, in order",
        "right": mark_items(scored, "01", lambda s: s.greedy[0]),
        "log_likelihoods": [s.log_likelihoods and s.log_likelihoods[0] for s in scored],
    }


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """The items won and lost, and exp of the mean difference in NLL of a word."""
    found = compare_items(VALUES, candidate, reference)
    ours, theirs = (side.items.get("log_likelihoods", []) for side in (candidate, reference))
    if not found or len(ours) != len(theirs):
        return found
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if None not in (a, b)]
    return found | exp_mean("perplexity_ratio", [b - a for a, b in pairs])


def exp_mean(name: str, nats: list[float]) -> dict[str, Value]:
    """exp of the mean over words, each of which is independent."""
    estimate = clustered_interval(nats, [1] * len(nats), exp_capped, in_order=False)
    if estimate is None:
        return make_values(VALUES, {name: exp_capped(fmean(nats))}, n={name: 1})
    return {name: to_value(VALUES[name], estimate)}


TASK = question_task(
    __doc__,
    Options,
    load_questions,
    VALUES,
    headline("lambada"),
    list_items=list_items,
    more_values=lambda items: exp_mean(
        "perplexity", [-nats for nats in items["log_likelihoods"] if nats is not None]
    ),
    compare=compare,
)
