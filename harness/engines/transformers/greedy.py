"""Greedy answers to prompts, in batches. Runs in the worker only.

`transformers`' own ``generate`` decodes; what a checkpoint's generation_config.json asks for beside
it (sampling, repetition penalties, forbidden tokens) is put aside: greedy is the likeliest token.
In fp32 a prompt's answer is the same in every batch; in lower precisions two tokens that are nearly
as likely may change places with the batch's shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.engines.transformers.forward import MeasureContext, run_in_batches
from harness.errors import InputError
from harness.scoring.prompts import encode, render_prompt

if TYPE_CHECKING:
    import torch

    from harness.engines.transformers.load import LoadedCell

Stopped = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Generated:
    """One answer: ``tokens`` without the end-of-text token, ``text`` up to the first stop string.

    ``stopped`` tells what ended it; ``length`` means it was cut off.
    """

    tokens: tuple[int, ...]
    text: str
    stopped: Stopped


@dataclass(frozen=True)
class Generation:
    """The answers in the prompts' order, None where prompt and answer exceed the model's context.

    ``batch_tokens`` is what a batch held at the end, less than was asked for where memory ran out.
    """

    answers: tuple[Generated | None, ...]
    batch_tokens: int

    @property
    def too_long(self) -> int:
        """How many prompts were left out."""
        return self.answers.count(None)


def generate_texts(
    loaded: LoadedCell,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str],
    batch_tokens: int,
    context: MeasureContext,
) -> Generation:
    """Answer every prompt with at most ``max_new_tokens`` tokens, the likeliest at each step.

    An answer ends at an end-of-text token, or where its text holds one of ``stop``. Prompts go
    together by length, the longest first, as many as fit into ``batch_tokens`` with their answers.
    Raises `InputError` where none fits into the model's context.
    """
    rows = [encode(loaded, render_prompt(loaded, prompt)) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise InputError(f"the prompt {prompt!r} has no tokens to start from")
    limit = loaded.max_context
    fitting = [
        i for i, row in enumerate(rows) if limit is None or len(row) + max_new_tokens <= limit
    ]
    if rows and not fitting:
        raise InputError(
            f"the shortest prompt has {min(map(len, rows))} tokens; with {max_new_tokens} new ones "
            f"that exceeds the {limit} of {loaded.job.model.name}: shorten it, or `max_new_tokens`"
        )
    context.progress(0, len(fitting), "items")
    answers: list[Generated | None] = [None] * len(rows)
    done = 0

    def run(batch: Sequence[int]) -> None:
        nonlocal done
        made = _generate_batch(loaded, [rows[i] for i in batch], max_new_tokens, stop)
        for i, answer in zip(batch, made, strict=True):
            answers[i] = answer
        done += len(batch)
        context.progress(done, len(fitting), "prompts")

    waiting = sorted(fitting, key=lambda i: len(rows[i]), reverse=True)
    while waiting:
        tokens = len(rows[waiting[0]]) + max_new_tokens
        size = max(1, batch_tokens // tokens)
        held = run_in_batches(waiting[:size], size, run)
        if held < size:
            batch_tokens = held * tokens
        waiting = waiting[size:]
    return Generation(tuple(answers), batch_tokens)


def _generate_batch(
    loaded: LoadedCell, rows: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str]
) -> list[Generated]:
    """Left-padded, so that every row's next token stands in the same column."""
    import torch
    from transformers import StoppingCriteriaList

    tokenizer: Any = loaded.require_tokenizer()
    model: Any = loaded.model
    length = max(map(len, rows))
    padded = [[0] * (length - len(row)) + list(row) for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    watch = _Watch(tokenizer, len(rows), find_eos(model, tokenizer), stop)
    with _plainly_greedy(model, max_new_tokens):
        output = model.generate(
            input_ids=torch.tensor(padded, device=loaded.device),
            attention_mask=torch.tensor(mask, device=loaded.device),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
    # Rows that ended early went on until the last one did.
    answers = output[:, length:].tolist()
    return [
        _finish(tokenizer, tokens if end is None else tokens[:end], stopped, stop)
        for tokens, (end, stopped) in zip(answers, watch.ends, strict=True)
    ]


def _finish(
    tokenizer: Any, tokens: Sequence[int], stopped: Stopped, stop: Sequence[str]
) -> Generated:
    text = _decode(tokenizer, tokens)
    found = [at for word in stop if (at := text.find(word)) >= 0]
    if found:
        return Generated(tuple(tokens), text[: min(found)], "stop")
    return Generated(tuple(tokens), text, stopped)


def find_eos(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text: the checkpoint's, of which chat models have several, and the
    tokenizer's."""
    found: set[int] = set()
    for given in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        found |= {given} if isinstance(given, int) else set(given or ())
    return frozenset(found)


@contextmanager
def _plainly_greedy(model: Any, max_new_tokens: int) -> Iterator[None]:
    """Put the checkpoint's own generation settings aside; `generate` would fall back on them."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, use_cache=True, pad_token_id=0
    )
    try:
        yield
    finally:
        model.generation_config = own


class _Watch:
    """Sees each row's tokens as they come and tells which rows have ended.

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
        import torch

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
