"""Greedy answers to prompts, in batches that follow the device."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.descriptions import BatchTokens, MeasureContext
from harness.engines.base import Answer, Engine
from harness.engines.shared.batches import run_in_batches
from harness.errors import InputError
from harness.scoring.prompts import encode_all, render_prompt


@dataclass(frozen=True)
class Answers:
    """Answers in the prompts' order, None where prompt and answer exceed the model's context.

    ``batch_tokens``: what a batch held at the end, less than asked for where memory ran out.
    """

    answers: tuple[Answer | None, ...]
    batch_tokens: int

    @property
    def too_long(self) -> int:
        """How many prompts were left out."""
        return self.answers.count(None)


def generate_texts(
    engine: Engine,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str],
    batch_tokens: BatchTokens,
    context: MeasureContext,
) -> Answers:
    """Answer every prompt with at most ``max_new_tokens`` tokens, the likeliest at each step.

    An answer ends at an end-of-text token, or where its text holds one of ``stop``. Batches take
    prompts by length, the longest first, up to ``batch_tokens`` tokens, answers included; "auto"
    goes on from the size that suited the engine before.
    Raises `InputError` where no prompt fits into the model's context.
    """
    rendered = [render_prompt(engine, prompt) for prompt in prompts]
    ids = encode_all(engine, rendered)
    rows = [ids[text] for text in rendered]
    if not all(rows):
        raise InputError(f"the prompt {prompts[rows.index([])]!r} has no tokens to start from")
    limit = engine.max_context
    fitting = [
        i for i, row in enumerate(rows) if limit is None or len(row) + max_new_tokens <= limit
    ]
    if rows and not fitting:
        raise InputError(
            f"the shortest prompt has {min(map(len, rows))} tokens; with {max_new_tokens} new ones "
            f"that exceeds the {limit} of {engine.job.model.name}: shorten it, or `max_new_tokens`"
        )
    context.progress(0, len(fitting), "items")
    answers: dict[int, Answer] = {}

    def run(batch: Sequence[int]) -> None:
        made = engine.answer([rows[i] for i in batch], max_new_tokens, stop)
        answers.update(zip(batch, made, strict=True))
        context.progress(len(answers), len(fitting), "prompts")

    size = engine.answer_batch.at_most(batch_tokens)
    waiting = sorted(fitting, key=lambda i: len(rows[i]), reverse=True)
    while waiting:
        tokens = len(rows[waiting[0]]) + max_new_tokens
        count = max(1, size.tokens // tokens)
        batch = waiting[:count]
        start = time.perf_counter()
        held = run_in_batches(batch, count, run)
        if held < count:
            size.limit(held * tokens)
        else:  # each step costs the same, however many of the rows still need it
            steps = max(len(made.tokens) for i in batch if (made := answers[i]))
            size.ran(len(batch) * tokens, (time.perf_counter() - start) * tokens / max(1, steps))
        waiting = waiting[count:]
    return Answers(tuple(answers.get(i) for i in range(len(rows))), size.tokens)
