"""multiple_choice: the log-likelihood of each option of a question, and what follows from it.

Used by tasks, which know where items come from and how a prompt reads. Rows are padded on the
right and only the positions that predict an option go through the output head. Does not yet
reuse the prefix that items share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import InputError
from harness.metrics._forward import MeasureContext, batch_for_logits, logits_at, token_nll

if TYPE_CHECKING:
    from harness.models.load import LoadedCell

TIE_NATS = 1e-3
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """A prompt, the texts that may follow it, and the index of the right one."""

    id: str
    subject: str
    prompt: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Scored:
    """``log_likelihoods`` per option in nats, None where the prompt was too long to score."""

    question: Question
    log_likelihoods: tuple[float, ...] | None

    @property
    def chosen(self) -> int | None:
        """The likeliest option, the first of equals; None for an unscored question."""
        if self.log_likelihoods is None:
            return None
        return max(range(len(self.log_likelihoods)), key=self.log_likelihoods.__getitem__)

    @property
    def right(self) -> bool:
        return self.chosen == self.question.answer

    @property
    def tied(self) -> bool:
        """Two best options closer than `TIE_NATS`: batch shape alone can flip them."""
        if self.log_likelihoods is None or len(self.log_likelihoods) < 2:
            return False
        first, second = sorted(self.log_likelihoods, reverse=True)[:2]
        return first - second < TIE_NATS


@dataclass(frozen=True)
class _Target:
    """One token to be predicted: whose option it belongs to, and from which position."""

    question: int
    option: int
    position: int
    token: int


def score_questions(
    loaded: LoadedCell, questions: Sequence[Question], batch_tokens: int, context: MeasureContext
) -> list[Scored]:
    """Score every option of every question, in the questions' order.

    An option's tokens are those of prompt + option that the prompt alone does not have, as
    lm-evaluation-harness defines them. Raises `InputError` where a log-likelihood is not finite.
    """
    tokenizer = loaded.require_tokenizer()
    rows: dict[tuple[int, ...], list[_Target]] = {}
    too_long = set()
    for i, question in enumerate(questions):
        targets = _tokenise(tokenizer, i, question)
        limit = loaded.max_context
        if limit is not None and any(len(row) > limit for row, _ in targets):
            too_long.add(i)
            continue
        for row, target in targets:
            rows.setdefault(row, []).append(target)
    sums = _score_rows(loaded, rows, batch_tokens, context)
    scored = []
    for i, question in enumerate(questions):
        found = None if i in too_long else tuple(sums[i, o] for o in range(len(question.options)))
        if found is not None and not all(map(math.isfinite, found)):
            raise InputError(f"{question.id}: the model's log-likelihoods are not finite: {found}")
        scored.append(Scored(question, found))
    return scored


def accuracy_stderr(right: Sequence[bool]) -> float | None:
    """Standard error of a share of n items: sqrt(p(1-p)/(n-1)); None for fewer than two."""
    n = len(right)
    p = sum(right) / n if n else 0.0
    return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None


def _tokenise(
    tokenizer: Any, index: int, question: Question
) -> list[tuple[tuple[int, ...], _Target]]:
    """The row of ids that goes through the model, and a target in it, per token of an option.

    Options of one token share their row, so that a question of letters is one row.
    """
    prompt = _encode_open(tokenizer, question.prompt)
    targets = []
    for option, text in enumerate(question.options):
        whole = _encode_open(tokenizer, question.prompt + text)
        if len(whole) <= len(prompt):
            raise InputError(f"{question.id}: option {text!r} adds no token to its prompt")
        row = tuple(whole[:-1])
        targets += [
            (row, _Target(index, option, at, whole[at + 1]))
            for at in range(len(prompt) - 1, len(row))
        ]
    return targets


def _encode_open(tokenizer: Any, text: str) -> list[int]:
    """Token ids without the end-of-text token that some tokenizers append: an option follows."""
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _score_rows(
    loaded: LoadedCell,
    rows: dict[tuple[int, ...], list[_Target]],
    batch_tokens: int,
    context: MeasureContext,
) -> dict[tuple[int, int], float]:
    """Summed log-likelihood in nats per (question, option)."""
    import torch

    sums: dict[tuple[int, int], float] = {}
    waiting = sorted(rows, key=len, reverse=True)
    done = 0
    while done < len(waiting):
        longest = len(waiting[done])
        size = max(1, batch_tokens // longest)
        spread = len({t.position for row in waiting[done : done + size] for t in rows[row]})
        batch = waiting[done : done + batch_for_logits(loaded.model, spread, size)]
        positions = sorted({t.position for row in batch for t in rows[row]})
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, : len(row)] = torch.tensor(row)
        logits = logits_at(
            loaded.model, ids.to(loaded.device), torch.tensor(positions, device=loaded.device)
        )
        column = {position: i for i, position in enumerate(positions)}
        wanted = [(i, column[t.position], t) for i, row in enumerate(batch) for t in rows[row]]
        picked = logits[[i for i, _, _ in wanted], [j for _, j, _ in wanted]]
        nll = token_nll(picked, torch.tensor([t.token for _, _, t in wanted], device=loaded.device))
        for (_, _, target), value in zip(wanted, nll.tolist(), strict=True):
            key = (target.question, target.option)
            sums[key] = sums.get(key, 0.0) - value
        done += len(batch)
        context.progress(done, len(waiting), "prompts")
    return sums
