"""perplexity: exp of the mean negative log-likelihood of a text, in nats per token.

Incomparable across protocols, contexts, tokenizers and texts, which is why all of them are stored
with the number. Long windows are scored in batches whose logits stay within a bound.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from harness.errors import InputError
from harness.metrics._forward import MeasureContext, batch_for_logits, logits_at, token_nll
from harness.options import Column, DataSource, OptionsBase, ValueSpec
from harness.record import Measured, Record, Validity, Value
from harness.values import make_values

if TYPE_CHECKING:
    from harness.models.load import LoadedCell

NEEDS_FRESH_PROCESS = False
REFERENCE_REUSABLE = True


class Options(OptionsBase):
    """``context`` and ``stride`` in tokens; ``stride`` belongs to ``sliding`` alone."""

    text: DataSource
    protocol: Literal["sliding", "disjoint"] = "sliding"
    context: int = Field(1024, ge=2)
    stride: int | None = Field(None, ge=1)
    batch_size: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _check_stride(self) -> Options:
        if self.protocol == "disjoint" and self.stride is not None:
            raise ValueError("stride is only for protocol 'sliding'; 'disjoint' has none")
        if self.stride is not None and self.stride > self.context:
            raise ValueError(
                f"stride {self.stride} is larger than context {self.context}: "
                "tokens between windows would never be scored"
            )
        return self


_LARGEST_LOG = math.log(sys.float_info.max)
VALUES = {
    "ppl": ValueSpec("", "lower", "exp(nll)"),
    "nll": ValueSpec("nats/token", "lower", "mean negative log-likelihood of the scored tokens"),
    "bits_per_byte": ValueSpec("bits/byte", "lower", "nll in bits over the text's UTF-8 bytes"),
    "tokens": ValueSpec("tokens", None, "tokens scored"),
    "nonfinite_tokens": ValueSpec("tokens", "lower", "tokens whose NLL is NaN or infinite"),
    "ratio": ValueSpec(
        "", "lower", "exp(mean(nll - reference nll)), same tokens", paired=True, of="ppl"
    ),
}
HEADLINE = (Column("ppl", "ppl", ".3f"), Column("×ref", "ratio", ".4f"))


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``stop`` go through the model; the last ``scored`` of them count."""

    start: int
    stop: int
    scored: int


def step_of(options: Options) -> int:
    """How far one window's start is from the next's; half the context where none is given."""
    if options.protocol == "disjoint":
        return options.context
    return options.stride or max(1, options.context // 2)


def plan_windows(tokens: int, options: Options) -> list[Window]:
    """Windows over a text of ``tokens`` tokens, each token scored at most once.

    ``sliding``: https://huggingface.co/docs/transformers/perplexity; ``disjoint``: every token
    but each window's first, as in the GPTQ papers (a last window of one token scores nothing).
    """
    step = step_of(options)
    windows, scored_to = [], 1
    for start in range(0, tokens, step):
        stop = min(start + options.context, tokens)
        first = max(scored_to, start + 1)
        if stop > first:
            windows.append(Window(start, stop, stop - first))
            scored_to = stop
        if stop == tokens:
            break
    return windows


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """Tokenise the text once, score every window, sum in float64."""
    from harness.tasks._data import load_text

    limit = loaded.max_context
    if limit is not None and options.context > limit:
        raise InputError(
            f"context {options.context} is longer than the {limit} tokens that "
            f"{loaded.job.model.name} was made for"
        )
    text, text_sha256 = load_text(options.text, context)
    ids, ends = encode_with_byte_ends(loaded.require_tokenizer(), text)
    if len(ids) < 2:
        raise InputError(f"text {options.text.path!r} has {len(ids)} token; nothing can be scored")
    windows = plan_windows(len(ids), options)
    sums, nonfinite = _score_windows(loaded, ids, windows, options, context)
    tokens = sum(window.scored for window in windows)
    scored_bytes = sum(ends[w.stop - 1] - ends[w.stop - w.scored - 1] for w in windows)
    protocol = {
        **options.model_dump(exclude={"batch_size"}, mode="json"),
        "stride": step_of(options),
        "text_sha256": text_sha256,
        "text_tokens": len(ids),
        "tokenizer_sha256": loaded.job.files.tokenizer_sha256,
    }
    chunk_tokens = [window.scored for window in windows]
    bad = {"tokens": tokens, "nonfinite_tokens": nonfinite}
    if nonfinite:
        reason = f"{nonfinite} of {tokens} tokens have a NaN or infinite log-likelihood"
        unknown = dict.fromkeys(("ppl", "nll", "bits_per_byte"))
        return Measured(
            values=make_values(VALUES, {**unknown, **bad}),
            protocol=protocol,
            items={"chunk_tokens": chunk_tokens},
            validity=Validity(status="invalid", reasons=(reason,)),
        )
    nll, stderr = ratio_of_sums(sums, chunk_tokens)
    per_byte = sum(sums) / math.log(2) / scored_bytes if scored_bytes else None
    numbers = {"ppl": _exp(nll), "nll": nll, "bits_per_byte": per_byte, **bad}
    spread = {"nll": stderr, "ppl": None if stderr is None else _exp(nll) * stderr}
    return Measured(
        values=make_values(VALUES, numbers, spread, dict.fromkeys(spread, len(windows))),
        protocol=protocol,
        items={"chunk_nll": sums, "chunk_tokens": chunk_tokens},
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """``ratio`` from the chunks' paired differences, clustered by chunk."""
    tokens = candidate.items.get("chunk_tokens")
    ours, theirs = candidate.items.get("chunk_nll"), reference.items.get("chunk_nll")
    if not tokens or not ours or not theirs or tokens != reference.items.get("chunk_tokens"):
        return {}
    difference, stderr = ratio_of_sums([a - b for a, b in zip(ours, theirs, strict=True)], tokens)
    ratio = _exp(difference)
    spread = {"ratio": None if stderr is None else ratio * stderr}
    return make_values(VALUES, {"ratio": ratio}, spread, {"ratio": len(tokens)})


def ratio_of_sums(sums: list[float], counts: list[int]) -> tuple[float, float | None]:
    """sum(sums)/sum(counts) and its standard error over clusters; None for a single cluster.

    The linearised variance of a ratio estimator (Cochran, Sampling Techniques, 1977, 6.4).
    """
    total, k = sum(counts), len(counts)
    mean = math.fsum(sums) / total
    if k < 2:
        return mean, None
    squares = math.fsum((s - mean * c) ** 2 for s, c in zip(sums, counts, strict=True))
    return mean, math.sqrt(squares * k / (k - 1)) / total


def encode_with_byte_ends(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """Token ids with the tokenizer's own special tokens, and the UTF-8 byte each one ends at.

    What lies between two tokens counts with the later one. Without offsets (a slow tokenizer)
    the ends are estimated by spreading the bytes evenly.
    """
    if not getattr(tokenizer, "is_fast", False):
        ids = tokenizer(text)["input_ids"]
        size = len(text.encode())
        return ids, [size * (i + 1) // len(ids) for i in range(len(ids))]
    encoded = tokenizer(text, return_offsets_mapping=True)
    byte_at = list(accumulate((len(character.encode()) for character in text), initial=0))
    reached, ends = 0, []
    for _, stop in encoded["offset_mapping"]:
        reached = max(reached, byte_at[stop])
        ends.append(reached)
    return encoded["input_ids"], ends


def _score_windows(
    loaded: LoadedCell,
    ids: list[int],
    windows: list[Window],
    options: Options,
    context: MeasureContext,
) -> tuple[list[float], int]:
    """Per window the sum of its scored tokens' NLL in nats, and how many were not finite."""
    import torch

    tokens = torch.tensor(ids, device=loaded.device)
    sums: list[float] = []
    nonfinite = 0
    for batch in _batches(loaded.model, windows, options.batch_size):
        rows = torch.stack([tokens[w.start : w.stop] for w in batch])
        length, scored = rows.shape[1], batch[0].scored
        positions = torch.arange(length - scored - 1, length - 1, device=loaded.device)
        nll = token_nll(logits_at(loaded.model, rows, positions), rows[:, positions + 1])
        nonfinite += int((~nll.isfinite()).sum())
        sums.extend(nll.sum(dim=1).tolist())
        context.progress(len(sums), len(windows), "windows")
    return sums, nonfinite


def _batches(model: Any, windows: list[Window], wanted: int) -> Iterator[list[Window]]:
    """Neighbouring windows of one shape, few enough for their logits to fit."""
    for _, same in groupby(windows, key=lambda w: (w.stop - w.start, w.scored)):
        group = list(same)
        size = batch_for_logits(model, group[0].scored, wanted)
        for first in range(0, len(group), size):
            yield group[first : first + size]


def _exp(x: float) -> float:
    """exp, as large as a float can be where it would overflow: a number that limits can judge."""
    return math.exp(min(x, _LARGEST_LOG))
