"""side_by_side: the suite's own prompts answered greedily, compared with the reference's answers.

The texts are for reading. The numbers say how soon two answers differ, and whether a precision
repeats itself or says nothing. An early difference does not mean that one of the answers is worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.descriptions import BatchTokens, Column, Metric, OptionsBase, ValueSpec
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values
from harness.statistics.shares import share_stderr

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine


class Options(OptionsBase):
    """``prompts`` are answered with at most ``max_new_tokens`` tokens, the likeliest at each step.

    A batch holds at most ``batch_tokens`` tokens, answers included, fewer where memory runs out,
    or where that is as fast.
    """

    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1, strict=False)
    max_new_tokens: int = Field(64, ge=1)
    batch_tokens: BatchTokens = "auto"
    BATCH: ClassVar[str | None] = "batch_tokens"
    VARIED: ClassVar[int] = 8192


VALUES = {
    "repetition_rate": ValueSpec("", "lower", "share of an answer's token 4-grams seen before"),
    "empty_rate": ValueSpec("", "lower", "answers without any visible character"),
    "items": ValueSpec("items", None, "prompts answered"),
    "too_long": ValueSpec("items", "lower", "prompts left out: no room for prompt and answer"),
    "new_tokens": ValueSpec("tokens", None, "tokens generated"),
    "identical_rate": ValueSpec(
        "", "higher", "answers equal to the reference's, token by token", paired=True, neutral=1.0
    ),
    "first_difference_median": ValueSpec(
        "tokens", "higher", "tokens before the first difference from the reference's answer; an "
        "equal one: its length", paired=True, neutral=None,
    ),
}  # fmt: skip


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Answer every prompt; prompts, answers and their tokens go into ``items``."""
    from harness.scoring.answers import generate_texts
    from harness.scoring.prompts import prompt_protocol
    from harness.scoring.scores import Repetition

    generation = generate_texts(
        engine, options.prompts, options.max_new_tokens, (), options.batch_tokens, context
    )
    answers = generation.answers
    given = [answer for answer in answers if answer is not None]
    empty = [not a.text.strip() for a in given]
    repetition = Repetition().compute(predictions=[a.tokens for a in given])
    too_long = generation.too_long
    numbers: dict[str, int | float | None] = {
        "repetition_rate": repetition["repetition_rate"],
        "empty_rate": fmean(empty),
        "items": len(given),
        "too_long": too_long,
        "new_tokens": sum(len(a.tokens) for a in given),
    }
    stderr = {
        "repetition_rate": repetition["repetition_rate_stderr"],
        "empty_rate": share_stderr(sum(empty), len(empty)),
    }
    counts = {"repetition_rate": repetition["n"], "empty_rate": len(empty)}
    reasons = [f"{too_long} prompts exceed the model's context; not answered"] if too_long else []
    return Measured(
        values=make_values(VALUES, numbers, stderr, counts),
        protocol={
            **options.model_dump(exclude={"batch_tokens"}, mode="json"),
            **prompt_protocol(engine),
            "decoding": "greedy",
            "tokenizer_sha256": engine.job.files.tokenizer_sha256,
        },
        items={
            "prompts": list(options.prompts),
            "texts": [None if a is None else a.text for a in answers],
            "tokens": [None if a is None else list(a.tokens) for a in answers],
            "stopped": [None if a is None else a.stopped for a in answers],
            "cost": {"batch_tokens": generation.batch_tokens},
        },
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """How far each answer agrees with the reference's, by token; empty where none has a partner."""
    ours, theirs = (side.items.get("tokens", ()) for side in (candidate, reference))
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if None not in (a, b)]
    if not pairs:
        return {}
    same = [list(a) == list(b) for a, b in pairs]
    numbers = {
        "identical_rate": fmean(same),
        "first_difference_median": median(first_difference(a, b) for a, b in pairs),
    }
    stderr = {"identical_rate": share_stderr(sum(same), len(same))}
    return make_values(VALUES, numbers, stderr, dict.fromkeys(numbers, len(pairs)))


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two answers have in common before they differ, or one of them ends."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


METRIC = Metric(
    __doc__ or "",
    Options,
    VALUES,
    measure,
    (
        Column("same\ntext", "identical_rate", ".0%"),
        Column("1st diff\ntoken", "first_difference_median", "g"),
    ),
    texts=("prompts", "texts"),
    needs=frozenset({"answer"}),
    how=frozenset({"cost"}),
    compare=compare,
)
