"""lambada: the last word of a passage, which only the whole passage gives away.

Paperno et al. 2016, https://arxiv.org/abs/1606.06031; 5,153 test items in the form OpenAI used for
GPT-2, as lambada_openai of lm-evaluation-harness: right is a word that greedy decoding would say.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from pydantic import Field

from harness.errors import InputError
from harness.metrics._choice_values import (
    CHOICE_VALUES,
    accuracy_stderr,
    compare_choices,
    headline,
)
from harness.metrics._prompts import prompt_protocol
from harness.metrics.multiple_choice import (
    ChoiceOptions,
    Question,
    Scored,
    hash_questions,
    score_questions,
)
from harness.options import DataSource, ValueSpec
from harness.record import Measured, Record, Validity, Value
from harness.tasks._rows import Row, load_rows, refuse_duplicates
from harness.values import exp_capped, make_values

if TYPE_CHECKING:
    from harness.metrics._forward import MeasureContext
    from harness.models.load import LoadedCell

NEEDS_FRESH_PROCESS = False
REFERENCE_REUSABLE = True
_NOT_OF_ONE_OPTION = ("acc_macro", "ties", "answer_change_rate")
VALUES = {
    "acc": ValueSpec("", "higher", "share of last words that greedy decoding says"),
    "perplexity": ValueSpec("", "lower", "exp(mean NLL of the last word, all its tokens)"),
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
    ),
}
HEADLINE = headline("lambada")


class Options(ChoiceOptions):
    """``data`` has the published field: text. There are no shots."""

    data: DataSource = DataSource(path="EleutherAI/lambada_openai", name="default")
    shots: int = Field(0, ge=0, le=0)


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """Whether the last word is the likeliest continuation, token by token, and how likely it is."""
    rows = load_rows(options.data, context, "test", options.limit)
    questions = [make_question(row, i) for i, row in enumerate(rows)]
    refuse_duplicates(rows, questions, "field 'text'")
    scored, cost = score_questions(loaded, questions, options.batch_tokens, context)
    words = [None if s.log_likelihoods is None else s.log_likelihoods[0] for s in scored]
    too_long = words.count(None)
    if too_long == len(words):
        raise InputError(
            f"every passage is longer than the {loaded.max_context} tokens of "
            f"{loaded.job.model.name}"
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
            **prompt_protocol(loaded),
            "items_sha256": hash_questions(questions),
            "tokenizer_sha256": loaded.job.files.tokenizer_sha256,
        },
        items={
            "ids": "number in its data, in order",
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
    """acc and perplexity = exp(-mean log-likelihood of a word), standard error by delta method."""
    answered = [s for s in scored if s.log_likelihoods is not None]
    right = [s.greedy[0] for s in answered]
    perplexity, stderr = _exp_mean([-s.log_likelihoods[0] for s in answered if s.log_likelihoods])
    return make_values(
        VALUES,
        {"acc": fmean(right), "perplexity": perplexity},
        {"acc": accuracy_stderr(right), "perplexity": stderr},
        {"acc": len(right), "perplexity": len(right)},
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """The paired values of `compare_choices`, and exp of the mean difference in NLL of a word."""
    found = compare_choices(candidate, reference)
    ours, theirs = (side.items.get("log_likelihoods", []) for side in (candidate, reference))
    if not found or len(ours) != len(theirs):
        return found
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if None not in (a, b)]
    ratio, stderr = _exp_mean([b - a for a, b in pairs])
    made = make_values(
        VALUES,
        {"perplexity_ratio": ratio},
        {"perplexity_ratio": stderr},
        {"perplexity_ratio": len(pairs)},
    )
    return found | made


def _exp_mean(nats: list[float]) -> tuple[float, float | None]:
    """exp(mean) and its standard error, exp(mean) * sd / sqrt(n), None for fewer than two."""
    value = exp_capped(fmean(nats))
    return value, value * stdev(nats) / math.sqrt(len(nats)) if len(nats) > 1 else None
