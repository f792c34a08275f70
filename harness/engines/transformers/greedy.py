"""Greedy answers to a batch of prompts.

`transformers`' own ``generate`` decodes. Other settings of a checkpoint's generation_config.json
(sampling, repetition penalties, forbidden tokens) are ignored: greedy is the likeliest token. In
fp32 a prompt's answer is the same in every batch; in lower precisions two tokens that are nearly
as likely may change places with the batch's size.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from harness.engines.base import Answer

Stopped = Literal["eos", "stop", "length"]


def generate_batch(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Sequence[str],
) -> list[Answer]:
    """Left-padded, so that every row's next token is in the same column."""
    length = max(map(len, rows))
    padded = [[0] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    watch = _Watch(tokenizer, len(rows), find_eos(model, tokenizer), stop)
    own = model.generation_config  # which `generate` would fall back on
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, use_cache=True, pad_token_id=0
    )
    try:
        output = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
    finally:
        model.generation_config = own
    # Rows that ended early went on until the last one did.
    answers = output[:, length:].tolist()
    return [
        _finish(tokenizer, tokens if end is None else tokens[:end], stopped, stop)
        for tokens, (end, stopped) in zip(answers, watch.ends, strict=True)
    ]


def _finish(tokenizer: Any, tokens: Sequence[int], stopped: Stopped, stop: Sequence[str]) -> Answer:
    text = _decode(tokenizer, tokens)
    found = [at for word in stop if (at := text.find(word)) >= 0]
    if found:
        return Answer(tuple(tokens), text[: min(found)], "stop")
    return Answer(tuple(tokens), text, stopped)


def find_eos(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text, by the checkpoint (chat models have several) or tokenizer."""
    found: set[int] = set()
    for given in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        found |= {given} if isinstance(given, int) else set(given or ())
    return frozenset(found)


class _Watch:
    """Stopping criterion: watches each row's tokens and says which rows have ended.

    ``ends`` holds per row the number of its tokens, None for a row not yet ended, and why it ended.
    """

    def __init__(self, tokenizer: Any, rows: int, eos: frozenset[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self._stop = stop
        # A token is a byte at least, but for a few that are no text.
        self._tail = max((len(word.encode()) for word in stop), default=0) + 4
        self._tokens: list[list[int]] = [[] for _ in range(rows)]
        self.ends: list[tuple[int | None, Stopped]] = [(None, "length")] * rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.ends[row][0] is None:
                self._take(row, token)
        ended = [end is not None for end, _ in self.ends]
        return torch.tensor(ended, device=input_ids.device)

    def _take(self, row: int, token: int) -> None:
        tokens = self._tokens[row]
        if token in self._eos:
            self.ends[row] = (len(tokens), "eos")
            return
        tokens.append(token)
        # The whole is decoded only where its end gives reason to.
        if self._stops(tokens[-self._tail :]) and self._stops(tokens):
            self.ends[row] = (len(tokens), "stop")

    def _stops(self, tokens: Sequence[int]) -> bool:
        if not self._stop:
            return False
        text = _decode(self._tokenizer, tokens)
        return any(word in text for word in self._stop)


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text
