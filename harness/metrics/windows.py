"""Which tokens of a text go through the model together, and which of them are scored. Pure."""

from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import InputError

Protocol = Literal["sliding", "disjoint", "lm-eval", "llamacpp"]


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``stop`` of a text; the last ``scored`` of them are scored.

    The token ``before`` is put in front of them, the token ``first`` in place of their first one.
    """

    start: int
    stop: int
    scored: int
    before: int | None = None
    first: int | None = None

    def sequence(self, ids: list[int]) -> list[int]:
        """The window's tokens: all but the last are fed, the last ``scored`` are predicted."""
        own = ids[self.start : self.stop]
        if self.first is not None:
            own[0] = self.first
        return own if self.before is None else [self.before, *own]

    @property
    def shape(self) -> tuple[int, int]:
        """Length of the sequence and number of scored tokens; equal ones can share a batch."""
        return self.stop - self.start + (self.before is not None), self.scored


def step_of(protocol: Protocol, context: int, stride: int | None) -> int:
    """Tokens between the ends of two windows; half the context where no ``stride`` is given."""
    return stride or max(1, context // 2) if protocol == "sliding" else context


def start_token(protocol: Protocol, tokenizer: Any, first: int) -> int | None:
    """The token a protocol starts its windows with; ``first`` is the first token of the text.

    ``lm-eval``: the tokenizer's BOS, else its EOS; raises `InputError` where it has neither.
    ``llamacpp``: BOS where the tokenizer puts it before a text, else None.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if protocol == "lm-eval":
        token: int | None = eos if bos is None else bos
        if token is None:
            raise InputError(
                "protocol 'lm-eval' predicts the first token from BOS or EOS, and the tokenizer "
                "has neither; use 'sliding' or 'disjoint'"
            )
        return token
    return bos if protocol == "llamacpp" and bos == first else None


def plan_windows(
    tokens: int,
    protocol: Protocol,
    context: int,
    stride: int | None = None,
    start_token: int | None = None,
) -> list[Window]:
    """Windows over a text of ``tokens`` tokens, each scored at most once; [] for a short text.

    - ``sliding``: https://huggingface.co/docs/transformers/perplexity
    - ``disjoint``: every token but each window's first, as in the GPTQ papers. Their code drops a
      last window that is not full; here it counts, unless it has only one token
    - ``lm-eval``: `get_rolling_token_windows` and `make_disjoint_window` of lm-evaluation-harness
      0.4.13: every token; the last window reaches back until it is full
    - ``llamacpp``: `perplexity` of llama.cpp's tools/perplexity: whole chunks only, at least two;
      in each chunk the tokens behind position context/2
    """
    if protocol == "llamacpp":
        chunks = tokens // context if tokens >= 2 * context else 0
        scored = context - 1 - context // 2
        return [
            Window(i * context, (i + 1) * context, scored, first=start_token) for i in range(chunks)
        ]
    windows, scored_to = [], 1
    if protocol == "lm-eval":
        for done in range(0, tokens, context):
            stop = min(done + context, tokens)
            before = None if done else start_token
            windows.append(Window(max(0, stop - context - 1), stop, stop - done, before))
        return windows
    for start in range(0, tokens, step_of(protocol, context, stride)):
        stop = min(start + context, tokens)
        first = max(scored_to, start + 1)
        if stop > first:
            windows.append(Window(start, stop, stop - first))
            scored_to = stop
        if stop == tokens:
            break
    return windows
