"""The log-likelihood of each option of a question.

Prompts, tokens and log-likelihoods are those of lm-evaluation-harness; what prompts share is
computed once. Where questions come from and what follows from the answers is known to the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from harness.descriptions import MeasureContext
from harness.engines.base import Cost, Engine, Target, Tokens
from harness.errors import InputError
from harness.scoring.prompts import encode_all, render_prompt

TIE_NATS = 1e-3
_TOKENISED_TOGETHER = 256  # questions


class Asked(Protocol):
    """A question: ``options`` are the texts that may follow its prompt after ``delimiter``."""

    @property
    def id(self) -> str: ...
    @property
    def options(self) -> tuple[str, ...]: ...
    @property
    def answer(self) -> int: ...
    @property
    def delimiter(self) -> str: ...
    def prompt_of(self, option: int) -> str:
        """The text that option number ``option`` follows."""


@dataclass(frozen=True)
class Scored:
    """``log_likelihoods`` per option in nats, None where a prompt was too long to score.

    ``greedy``: of each option, whether greedy decoding would give it.
    """

    question: Asked
    log_likelihoods: tuple[float, ...] | None
    greedy: tuple[bool, ...] = ()

    @property
    def chosen(self) -> int | None:
        """The likeliest option, the first of equals; None for an unscored question."""
        return None if self.log_likelihoods is None else _first_best(self.log_likelihoods)

    @property
    def chosen_norm(self) -> int | None:
        """The likeliest per character, which lm-evaluation-harness calls acc_norm."""
        if self.log_likelihoods is None:
            return None
        lengths = [max(1, len(option)) for option in self.question.options]
        return _first_best([x / n for x, n in zip(self.log_likelihoods, lengths, strict=True)])

    @property
    def right(self) -> bool:
        return self.chosen == self.question.answer

    @property
    def right_norm(self) -> bool:
        return self.chosen_norm == self.question.answer

    @property
    def tied(self) -> bool:
        """Two best options closer than `TIE_NATS`: the size of a batch alone can flip them."""
        if self.log_likelihoods is None or len(self.log_likelihoods) < 2:
            return False
        first, second = sorted(self.log_likelihoods, reverse=True)[:2]
        return first - second < TIE_NATS


def score_questions(
    engine: Engine, questions: Sequence[Asked], batch_tokens: int, context: MeasureContext
) -> tuple[list[Scored], Cost]:
    """Score every option of every question, in the questions' order; and the cost of it.

    Raises `InputError` where there is no question or a log-likelihood is not finite.
    """
    if not questions:
        raise InputError("there are no questions to score")
    rows: dict[tuple[int, ...], int] = {}
    targets: list[Target] = []
    too_long = set()
    limit = engine.max_context
    for i, found in enumerate(_tokenise(engine, questions)):
        if limit is not None and any(len(row) > limit for row, _ in found):
            too_long.add(i)
            continue
        for option, (row, tokens) in enumerate(found):
            number = rows.setdefault(row, len(rows))
            start = len(row) - len(tokens)
            targets += [
                Target(number, start + at, token, (i, option)) for at, token in enumerate(tokens)
            ]
    context.progress(0, len(questions) - len(too_long), "items")
    sums: dict[Any, float] = {}
    greedy: dict[Any, bool] = {}

    def take(key: Any, nll: float, likeliest: bool) -> None:
        sums[key] = sums.get(key, 0.0) - nll
        greedy[key] = greedy.get(key, True) and likeliest

    cost = engine.score_targets(
        list(rows),
        targets,
        take,
        batch_tokens,
        lambda done, total: context.progress(done, total, "prompts"),
    )
    scored = []
    for i, question in enumerate(questions):
        if i in too_long:
            scored.append(Scored(question, None))
            continue
        keys = [(i, option) for option in range(len(question.options))]
        likelihoods = tuple(sums[key] for key in keys)
        if not all(map(math.isfinite, likelihoods)):
            raise InputError(
                f"{question.id}: the model's log-likelihoods are not finite: {likelihoods}"
            )
        scored.append(Scored(question, likelihoods, tuple(greedy[key] for key in keys)))
    return scored, cost


def _tokenise(engine: Engine, questions: Sequence[Asked]) -> Iterator[list[tuple[Tokens, Tokens]]]:
    """Per question and option the ids that go through the model, and those it is to predict.

    As in lm-evaluation-harness: spaces at the end of the prompt move to the option, whose tokens
    are those of prompt + option that the prompt alone does not have; with an empty prompt the
    model starts from its beginning-of-text token, or else its end-of-text token.
    """
    for start in range(0, len(questions), _TOKENISED_TOGETHER):
        block = questions[start : start + _TOKENISED_TOGETHER]
        pairs = [_split_prompts(engine, question) for question in block]
        asked = [(prompt, prompt + end) for own in pairs for prompt, end in own if prompt]
        ids = encode_all(engine, chain.from_iterable(asked))
        for question, own in zip(block, pairs, strict=True):
            found = []
            for (prompt, end), text in zip(own, question.options, strict=True):
                if prompt:
                    context, wanted = ids[prompt], ids[prompt + end][len(ids[prompt]) :]
                else:
                    context, wanted = _encode_alone(engine, end)
                if not wanted:
                    raise InputError(f"{question.id}: option {text!r} adds no token to its prompt")
                found.append(((*context, *wanted[:-1]), tuple(wanted)))
            yield found


def _split_prompts(engine: Engine, question: Asked) -> list[tuple[str, str]]:
    """Prompt and continuation per option; none of the prompts ends in a space.

    In a chat template the option follows the opened turn without a delimiter.
    """
    pairs = []
    for option, text in enumerate(question.options):
        prompt = render_prompt(engine, question.prompt_of(option))
        delimiter = "" if engine.job.model.chat_template else question.delimiter
        kept = prompt.rstrip()
        pairs.append((kept, prompt[len(kept) :] + delimiter + text))
    return pairs


def _encode_alone(engine: Engine, text: str) -> tuple[list[int], list[int]]:
    """The token that a text without a prompt starts from, and the text's own tokens."""
    tokenizer: Any = engine.require_tokenizer()
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise InputError(
            f"an empty prompt, and the tokenizer of {engine.job.model.name} has neither a "
            "beginning-of-text nor an end-of-text token to start from"
        )
    return [first], tokenizer(text, add_special_tokens=False)["input_ids"]


def _first_best(numbers: Sequence[float]) -> int:
    return max(range(len(numbers)), key=numbers.__getitem__)
