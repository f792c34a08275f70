"""side_by_side: the suite's own prompts, answered greedily, beside the reference's answers.

The texts are for reading; the numbers tell how soon they part, and whether a precision has begun to
repeat itself or to say nothing. Where two models part early, neither need be worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.descriptions import Column, Metric, OptionsBase, ValueSpec
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values
from harness.statistics.estimates import share_stderr

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine


class Options(OptionsBase):
    """``prompts`` are answered with at most ``max_new_tokens`` tokens, the likeliest at each step.

    As many go together as fit into ``batch_tokens`` with their answers, fewer where memory runs
    out.
    """

    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1, strict=False)
    max_new_tokens: int = Field(64, ge=1)
    batch_tokens: int = Field(8192, ge=1)
    BATCH: ClassVar[str | None] = "batch_tokens"


VALUES = {
    "repetition_rate": ValueSpec(
        "", "lower", "share of an answer's token 4-grams seen in it before"
    ),
    "empty_rate": ValueSpec("", "lower", "answers without any visible character"),
    "items": ValueSpec("items", None, "prompts answered"),
    "too_long": ValueSpec("items", "lower", "prompts left out: no room for prompt and answer"),
    "new_tokens": ValueSpec("tokens", None, "tokens generated"),
    "identical_rate": ValueSpec(
        "", "higher", "answers equal to the reference's, token by token", paired=True, neutral=1.0
    ),
    "first_difference_median": ValueSpec(
        "tokens",
        "higher",
        "tokens until the answer leaves the reference's; an equal one counts its whole length",
        paired=True,
        neutral=None,
    ),
}
HEADLINE = (
    Column("same\ntext", "identical_rate", ".0%"),
    Column("1st diff", "first_difference_median", "g"),
)


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Answer every prompt; prompts, answers and their tokens are kept in ``items``."""
    from harness.scoring.answers import generate_texts
    from harness.scoring.prompts import prompt_protocol
    from harness.scoring.scores.repetition import Repetition

    generation = generate_texts(
        engine, options.prompts, options.max_new_tokens, (), options.batch_tokens, context
    )
    answers = generation.answers
    given = [answer for answer in answers if answer is not None]
    empty = [not a.text.strip() for a in given]
    repetition = Repetition().compute(predictions=[a.tokens for a in given])
    numbers: dict[str, int | float | None] = {
        "repetition_rate": repetition["repetition_rate"],
        "empty_rate": fmean(empty),
        "items": len(given),
        "too_long": generation.too_long,
        "new_tokens": sum(len(a.tokens) for a in given),
    }
    reasons = []
    if generation.too_long:
        reasons.append(f"{generation.too_long} prompts exceed the model's context; not answered")
    return Measured(
        values=make_values(
            VALUES,
            numbers,
            {
                "repetition_rate": repetition["repetition_rate_stderr"],
                "empty_rate": share_stderr(sum(empty), len(empty)),
            },
            {"repetition_rate": repetition["n"], "empty_rate": len(empty)},
        ),
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
    """Where each answer leaves the reference's to the same prompt; none without such pairs."""
    found = compare_texts(candidate.items.get("tokens", ()), reference.items.get("tokens", ()))
    if not found.numbers:
        return {}
    return make_values(VALUES, found.numbers, found.stderr, dict.fromkeys(found.numbers, found.n))


@dataclass(frozen=True)
class Agreement:
    """Paired numbers over ``n`` answers, and the standard errors of those that have one."""

    numbers: dict[str, int | float | None]
    stderr: dict[str, float | None]
    n: int


def compare_texts(
    ours: Sequence[Sequence[int] | None], theirs: Sequence[Sequence[int] | None]
) -> Agreement:
    """Token ids per answer against the reference's; None stands for no answer, and is left out."""
    pairs = [
        (list(a), list(b))
        for a, b in zip(ours, theirs, strict=False)
        if a is not None and b is not None
    ]
    if not pairs:
        return Agreement({}, {}, 0)
    same = [a == b for a, b in pairs]
    middle = median(first_difference(a, b) for a, b in pairs)
    return Agreement(
        {"identical_rate": fmean(same), "first_difference_median": middle},
        {"identical_rate": share_stderr(sum(same), len(same))},
        len(pairs),
    )


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two answers have in common before they part, or one of them ends."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return i
    return min(len(ours), len(theirs))


def repeated_share(tokens: Sequence[int], n: int = 4) -> float | None:
    """1 - distinct n-grams / n-grams of one answer, None for fewer than n tokens.

    The seq-rep-n of Welleck et al. 2020, https://arxiv.org/abs/1908.04319, who take n = 4 too.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


METRIC = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"answer"}),
    compare=compare,
)
