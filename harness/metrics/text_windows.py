"""A text in windows of one model's tokens, and which of them are scored.

What the metrics over texts share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.descriptions import MeasureContext, OptionsBase, ValueSpec
from harness.errors import InputError
from harness.records.record import Measured, Record, Status, Validity, Value
from harness.records.values import make_values, to_value
from harness.statistics.estimates import clustered_interval, clustered_mean
from harness.suite.data_source import DataSource

if TYPE_CHECKING:
    import torch

    from harness.engines.base import Engine
    from harness.scoring.tokenised import TokenisedText


Protocol = Literal["sliding", "disjoint", "lm-eval", "llamacpp"]
TOKEN_COUNTS = {
    "tokens": ValueSpec("tokens", None, "tokens scored"),
    "nonfinite_tokens": ValueSpec("tokens", "lower", "tokens whose score is NaN or infinite"),
}


class WindowOptions(OptionsBase):
    """``context`` and ``stride`` in tokens; ``stride`` belongs to ``sliding`` alone.

    ``context`` is the maximum length of ``lm-eval`` and the ``n_ctx`` of ``llamacpp``.
    """

    text: DataSource
    protocol: Protocol = "sliding"
    context: int = Field(1024, ge=2)
    stride: int | None = Field(None, ge=1)
    batch_size: int = Field(8, ge=1)
    BATCH: ClassVar[str | None] = "batch_size"

    @model_validator(mode="after")
    def _check_lengths(self) -> WindowOptions:
        if self.protocol != "sliding" and self.stride is not None:
            raise ValueError(f"stride is only for protocol 'sliding'; {self.protocol!r} has none")
        if self.stride is not None and self.stride > self.context:
            raise ValueError(
                f"stride {self.stride} is larger than context {self.context}: "
                "tokens between windows would never be scored"
            )
        if self.protocol == "llamacpp" and self.context < 4:
            raise ValueError(
                f"context {self.context} is too short for protocol 'llamacpp', which scores the "
                "second half of each chunk: at least 4"
            )
        return self


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


def check_text(options: WindowOptions, context: MeasureContext) -> None:
    """Read the text as measuring will; raises `InputError` and `UnavailableError`."""
    from harness.scoring.data import load_text

    load_text(options.text, context)


@dataclass(frozen=True)
class TextWindows:
    """``windows`` over ``ids``, the tokens of ``text`` that are used.

    ``protocol`` is everything about the text and its windows that a number depends on.
    """

    engine: Engine
    context: MeasureContext
    text: TokenisedText
    ids: list[int]
    windows: list[Window]
    protocol: dict[str, Any]

    @property
    def scored(self) -> list[int]:
        """Scored tokens of each window."""
        return [window.scored for window in self.windows]

    def stack(self, windows: list[Window]) -> torch.Tensor:
        """Sequences of windows of one shape, as rows (windows, n) on the engine's device."""
        import torch

        rows = [window.sequence(self.ids) for window in windows]
        return torch.tensor(rows, device=self.engine.device)

    def run(self, size: int, score: Callable[[torch.Tensor, int], None]) -> int:
        """``score(rows, scored)`` on the windows in order, at most ``size`` of one shape at a time.

        Batches shrink where memory runs out; returns the size that fitted. ``score`` must keep
        nothing of a batch that it does not finish.
        """
        from harness.engines.shared.batches import run_in_batches

        done = 0

        def run_batch(batch: Any) -> None:
            nonlocal done
            score(self.stack(batch), batch[0].scored)
            done += len(batch)
            self.context.progress(done, len(self.windows), "windows")

        for _, same in groupby(self.windows, key=lambda window: window.shape):
            size = run_in_batches(list(same), size, run_batch)
        return size

    def make_measured(
        self,
        values: dict[str, Value],
        items: Mapping[str, Any],
        reasons: Sequence[str],
        nonfinite: int,
        what: str,
        **protocol: Any,
    ) -> Measured:
        """The measurement, invalid where ``what`` is NaN or infinite at ``nonfinite`` tokens."""
        tokens = sum(self.scored)
        status: Status = "invalid" if nonfinite else "flagged" if reasons else "ok"
        if nonfinite:
            lost = f"{nonfinite} of {tokens} tokens have a NaN or infinite {what}"
            reasons = (lost, *reasons)
        counts = make_values(TOKEN_COUNTS, {"tokens": tokens, "nonfinite_tokens": nonfinite})
        return Measured(
            values=values | counts,
            protocol=self.protocol | protocol,
            items={**items, "chunk_tokens": self.scored},
            validity=Validity(status=status, reasons=tuple(reasons)),
        )


def open_windows(
    engine: Engine, options: WindowOptions, context: MeasureContext, limit: int | None = None
) -> TextWindows:
    """Tokenise the text and plan its windows; only the first ``limit`` tokens where that is given.

    Raises `InputError` for a context beyond the model's, a text too short for the protocol and a
    tokenizer without the tokens it needs.
    """
    from harness.scoring.tokenised import tokenise_text

    longest = engine.max_context
    if longest is not None and options.context > longest:
        raise InputError(
            f"context {options.context} is longer than the {longest} tokens that "
            f"{engine.job.model.name} was made for"
        )
    text = tokenise_text(engine, options.text, context)
    ids = text.ids[:limit].tolist()
    first = start_token(options.protocol, engine.require_tokenizer(), ids[0]) if ids else None
    windows = plan_windows(len(ids), options.protocol, options.context, options.stride, first)
    if not windows:
        found = f"text {options.text.path!r} has {len(ids)} token{'s' * (len(ids) != 1)}"
        if options.protocol == "llamacpp":
            raise InputError(
                f"{found}; protocol 'llamacpp' needs two whole chunks, {2 * options.context}: "
                "take a longer text or a shorter context"
            )
        raise InputError(f"{found}; nothing can be scored")
    protocol = {
        **options.model_dump(exclude={"batch_size"}, mode="json"),
        "stride": step_of(options.protocol, options.context, options.stride),
        "text_sha256": text.text_sha256,
        "text_tokens": len(text.ids),
        "tokenizer_sha256": engine.job.files.tokenizer_sha256,
    }
    if options.protocol in ("lm-eval", "llamacpp"):
        protocol["start_token"] = first
    return TextWindows(engine, context, text, ids, windows, protocol)


def compare_chunks(
    candidate: Record,
    reference: Record,
    row: str,
    specs: Mapping[str, ValueSpec],
    name: str,
    transform: Callable[[float], float] = float,
) -> dict[str, Value]:
    """The value ``name``: the ``transform`` of ``row``'s mean paired change per token.

    Clustered by window, without an interval for few of them; {} unless both have the same windows.
    """
    ours, theirs = candidate.items.get(row), reference.items.get(row)
    tokens = candidate.items.get("chunk_tokens")
    if not tokens or not ours or not theirs or tokens != reference.items.get("chunk_tokens"):
        return {}
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    estimate = clustered_interval(differences, tokens, transform)
    if estimate is not None:
        return {name: to_value(specs[name], estimate)}
    mean = transform(clustered_mean(differences, tokens)[0])
    return make_values(specs, {name: mean}, n={name: len(tokens)})
