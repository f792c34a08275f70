"""The log-likelihood of each option of a question.

Prompts, tokens and log-likelihoods are those of lm-evaluation-harness; what prompts share is
computed once. Where questions come from and what follows from the answers is known to the tasks.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.descriptions import BatchTokens, MeasureContext
from harness.engines.base import Cost, Engine, Target, Tokens
from harness.errors import InputError
from harness.records.questions import Question
from harness.scoring.prompts import encode_all, render_prompt

TIE_NATS = 1e-3
_TOKENISED_TOGETHER = 256  # questions


@dataclass(frozen=True)
class Scored:
    """``log_likelihoods`` per option in nats, None where a prompt was too long to score.

    ``greedy``: of each option, whether greedy decoding would give it.
    """

    question: Question
    log_likelihoods: tuple[float, ...] | None
    greedy: tuple[bool, ...] = ()

    @property
    def chosen(self) -> int | None:
        """The likeliest option, the first of equals; None for an unscored question."""
        return self._likeliest([1] * len(self.question.options))

    @property
    def chosen_norm(self) -> int | None:
        """The likeliest per character, which lm-evaluation-harness calls acc_norm."""
        return self._likeliest([max(1, len(option)) for option in self.question.options])

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

    def _likeliest(self, lengths: Sequence[int]) -> int | None:
        if self.log_likelihoods is None:
            return None
        scores = [x / n for x, n in zip(self.log_likelihoods, lengths, strict=True)]
        return scores.index(max(scores))


def score_questions(
    engine: Engine,
    questions: Sequence[Question],
    batch_tokens: BatchTokens,
    context: MeasureContext,
) -> tuple[list[Scored], Cost]:
    """Score every option of every question, in the questions' order; and the cost of it.

    Raises `InputError` where there is no question or a log-likelihood is not finite.
    """
    if not questions:
        raise InputError("there are no questions to score")
    rows: dict[tuple[int, ...], int] = {}
    targets: list[Target] = []
    limit = engine.max_context
    fitting = 0
    for i, tokenised in enumerate(_tokenise(engine, questions)):
        if limit is not None and any(len(row) > limit for row, _ in tokenised):
            continue
        fitting += 1
        for option, (row, tokens) in enumerate(tokenised):
            number = rows.setdefault(row, len(rows))
            start = len(row) - len(tokens)
            targets += [
                Target(number, start + at, token, (i, option)) for at, token in enumerate(tokens)
            ]
    context.progress(0, fitting, "items")
    found: dict[Any, tuple[float, bool]] = {}

    def take(key: Any, nll: float, likeliest: bool) -> None:
        nats, greedy = found.get(key, (0.0, True))
        found[key] = nats - nll, greedy and likeliest

    cost = engine.score_targets(
        list(rows), targets, take, batch_tokens, lambda n, of: context.progress(n, of, "prompts")
    )
    scored = []
    for i, question in enumerate(questions):
        if (i, 0) not in found:
            scored.append(Scored(question, None))
            continue
        options = (found[i, option] for option in range(len(question.options)))
        likelihoods, greedy = zip(*options, strict=True)
        if not all(map(math.isfinite, likelihoods)):
            problem = f"the model's log-likelihoods are not finite: {likelihoods}"
            raise InputError(f"{question.id}: {problem}")
        scored.append(Scored(question, likelihoods, greedy))
    return scored, cost


def _tokenise(engine: Engine, asked: Sequence[Question]) -> Iterator[list[tuple[Tokens, Tokens]]]:
    """Per question and option the ids that go through the model, and those it is to predict.

    As in lm-evaluation-harness: spaces at the end of the prompt move to the option, whose tokens
    are those of prompt + option that the prompt alone does not have; with an empty prompt the
    model starts from its beginning-of-text token, or else its end-of-text token.
    """
    for start in range(0, len(asked), _TOKENISED_TOGETHER):
        block = asked[start : start + _TOKENISED_TOGETHER]
        pairs = [_split_prompts(engine, question) for question in block]
        together = [pair for own in pairs for pair in own if pair[0]]
        ids = encode_all(
            engine, [text for prompt, end in together for text in (prompt, prompt + end)]
        )
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


def _split_prompts(engine: Engine, question: Question) -> list[tuple[str, str]]:
    """Prompt and continuation per option; none of the prompts ends in a space.

    In a chat template the option follows the opened turn without a delimiter.
    """
    delimiter = "" if engine.job.model.chat_template else question.delimiter
    pairs = []
    for option, text in enumerate(question.options):
        prompt = render_prompt(engine, question.prompt_of(option))
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
