"""perplexity: exp of the mean negative log-likelihood of a text, in nats per token.

Incomparable across protocols, contexts, tokenizers and texts, which is why all of them are stored
with the number. The windows of a long text go to the device batch by batch, and their logits exist
a bounded slice at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from harness.descriptions import Column, Margin, MeasureContext, Metric, ValueSpec
from harness.errors import InputError
from harness.metrics.windows import (
    Protocol,
    Window,
    WindowOptions,
    plan_windows,
    start_token,
    step_of,
)
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values, to_value
from harness.statistics.estimates import clustered_mean, clustered_ratio, exp_capped

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.engines.base import Engine
    from harness.scoring.tokenised import TokenisedText


class Options(WindowOptions):
    """``context`` and ``stride`` in tokens; ``stride`` belongs to ``sliding`` alone.

    ``context`` is the maximum length of ``lm-eval`` and the ``n_ctx`` of ``llamacpp``.
    """

    @model_validator(mode="after")
    def _check_lengths(self) -> Options:
        if self.protocol == "llamacpp" and self.context < 4:
            raise ValueError(
                f"context {self.context} is too short for protocol 'llamacpp', which scores the "
                "second half of each chunk: at least 4"
            )
        return self


_MARGIN = Margin(relative=0.005)


def _sampled(unit: str, text: str, **more: Any) -> ValueSpec:
    return ValueSpec(unit, "lower", text, sampled="items", **more)


VALUES = {
    "ppl": _sampled("", "exp(nll)", margin=_MARGIN),
    "nll": _sampled("nats/token", "mean negative log-likelihood of the scored tokens"),
    "bits_per_byte": _sampled("bits/byte", "nll in bits over the text's UTF-8 bytes"),
    "word_perplexity": _sampled("", "exp(total nll / words); protocol lm-eval only"),
    "byte_perplexity": _sampled("", "exp(total nll / bytes); protocol lm-eval only"),
    "tokens": ValueSpec("tokens", None, "tokens scored"),
    "nonfinite_tokens": ValueSpec("tokens", "lower", "tokens whose NLL is NaN or infinite"),
    "ratio": _sampled(
        "",
        "exp(mean(nll - reference nll)), same tokens",
        paired=True,
        of="ppl",
        neutral=1.0,
        margin=_MARGIN,
    ),
}
# Protocols whose windows start with a token of the tokenizer's rather than the text's.
STARTED = ("lm-eval", "llamacpp")
HEADLINE = (Column("ppl", "ppl", ".3f"), Column("×ref", "ratio", ".4f", stderr=True))


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Score every window of the tokenised text, sum in float64.

    Raises `InputError` for a context beyond the model's, a text too short for the protocol and a
    tokenizer without the tokens it needs.
    """
    from harness.scoring.tokenised import tokenise_text

    limit = engine.max_context
    if limit is not None and options.context > limit:
        raise InputError(
            f"context {options.context} is longer than the {limit} tokens that "
            f"{engine.job.model.name} was made for"
        )
    text = tokenise_text(engine, options.text, context)
    windows, first = _plan(engine, options, text)
    scores = _score_windows(engine, text.ids, windows, options.batch_size, context)
    protocol = {
        **options.model_dump(exclude={"batch_size"}, mode="json"),
        "stride": step_of(options.protocol, options.context, options.stride),
        "text_sha256": text.text_sha256,
        "text_tokens": len(text.ids),
        "tokenizer_sha256": engine.job.files.tokenizer_sha256,
    }
    if options.protocol in STARTED:
        protocol["start_token"] = first
    chunk_tokens = [window.scored for window in windows]
    tokens = sum(chunk_tokens)
    counts = {"tokens": tokens, "nonfinite_tokens": scores.nonfinite}
    items = {"chunk_tokens": chunk_tokens, "batch_size": scores.batch_size}
    reasons = (scores.fallback,) if scores.fallback else ()
    if scores.nonfinite:
        lost = f"{scores.nonfinite} of {tokens} tokens have a NaN or infinite log-likelihood"
        unknown = dict.fromkeys(("ppl", "nll", "bits_per_byte"))
        if options.protocol == "lm-eval":
            unknown |= dict.fromkeys(("word_perplexity", "byte_perplexity"))
        return Measured(
            values=make_values(VALUES, {**unknown, **counts}),
            protocol=protocol,
            items=items,
            validity=Validity(status="invalid", reasons=(lost, *reasons)),
        )
    numbers, spread = _summarise(scores.sums, windows, text, options.protocol)
    return Measured(
        values=make_values(
            VALUES, {**numbers, **counts}, spread, dict.fromkeys(numbers, len(windows))
        ),
        protocol=protocol,
        items={"chunk_nll": scores.sums, **items},
        validity=Validity(status="flagged" if reasons else "ok", reasons=reasons),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """``ratio`` from the chunks' paired differences, clustered by chunk."""
    tokens = candidate.items.get("chunk_tokens")
    ours, theirs = candidate.items.get("chunk_nll"), reference.items.get("chunk_nll")
    if not tokens or not ours or not theirs or tokens != reference.items.get("chunk_tokens"):
        return {}
    estimate = clustered_ratio(ours, theirs, tokens)
    if estimate is not None:
        return {"ratio": to_value(VALUES["ratio"], estimate)}
    difference, _ = clustered_mean([a - b for a, b in zip(ours, theirs, strict=True)], tokens)
    return make_values(VALUES, {"ratio": exp_capped(difference)}, n={"ratio": 1})


def _plan(engine: Engine, options: Options, text: TokenisedText) -> tuple[list[Window], int | None]:
    """The text's windows and the token the protocol starts them with."""
    tokens, tokenizer = len(text.ids), engine.require_tokenizer()
    first = start_token(options.protocol, tokenizer, int(text.ids[0])) if tokens else None
    windows = plan_windows(tokens, options.protocol, options.context, options.stride, first)
    found = f"text {options.text.path!r} has {tokens} token{'s' * (tokens != 1)}"
    if not windows and options.protocol == "llamacpp":
        raise InputError(
            f"{found}; protocol 'llamacpp' needs two whole chunks, {2 * options.context}: "
            "take a longer text or a shorter context"
        )
    if not windows:
        raise InputError(f"{found}; nothing can be scored")
    return windows, first


@dataclass(frozen=True)
class _Scores:
    """Per window the sum of its scored tokens' NLL in nats, and how it was come by."""

    sums: list[float]
    nonfinite: int
    batch_size: int
    fallback: str | None


def _score_windows(
    engine: Engine,
    ids: npt.NDArray[np.int32],
    windows: list[Window],
    size: int,
    context: MeasureContext,
) -> _Scores:
    """Neighbouring windows of one shape together, fewer where memory runs out."""
    import numpy as np
    import torch

    from harness.engines.shared.batches import run_in_batches

    sums: list[float] = []
    nonfinite = 0
    slow_because: str | None = None

    def run(batch: Sequence[Window]) -> None:
        nonlocal nonfinite, slow_because
        rows = torch.from_numpy(np.stack([window.sequence(ids) for window in batch]))
        scores = engine.score_windows(rows, batch[0].scored)
        nll, slow_because = scores.nll, scores.slow_because
        nonfinite += int((~nll.isfinite()).sum())
        sums.extend(nll.sum(dim=1).tolist())
        context.progress(len(sums), len(windows), "windows")

    for _, same in groupby(windows, key=lambda window: window.shape):
        size = run_in_batches(list(same), size, run)
    return _Scores(sums, nonfinite, size, slow_because)


def _summarise(
    sums: list[float], windows: list[Window], text: TokenisedText, protocol: Protocol
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Values and their standard errors over windows; per byte and word as the text has them.

    ``lm-eval`` counts the bytes and words of the whole text, the others the scored tokens' bytes.
    """
    nll, stderr = clustered_mean(sums, [window.scored for window in windows])
    numbers: dict[str, float | None] = {"ppl": exp_capped(nll), "nll": nll, "bits_per_byte": None}
    spread = {"nll": stderr, "ppl": None if stderr is None else exp_capped(nll) * stderr}
    chunk_bytes = _scored_bytes(windows, text.ends)
    scored_bytes = sum(chunk_bytes)
    if not scored_bytes:
        return numbers, spread
    per_byte, byte_stderr = clustered_mean(sums, chunk_bytes)
    total = math.fsum(sums)
    whole = protocol == "lm-eval"
    per_byte = total / text.text_bytes if whole else per_byte
    numbers["bits_per_byte"] = per_byte / math.log(2)
    spread["bits_per_byte"] = None if byte_stderr is None else byte_stderr / math.log(2)
    if whole:
        for name, count in (
            ("word_perplexity", text.text_words),
            ("byte_perplexity", text.text_bytes),
        ):
            value = numbers[name] = exp_capped(total / count)
            spread[name] = (
                None if byte_stderr is None else value * byte_stderr * scored_bytes / count
            )
    return numbers, spread


def _scored_bytes(windows: list[Window], ends: npt.NDArray[np.int64]) -> list[int]:
    """UTF-8 bytes of each window's scored tokens, of which there is at least one."""
    import numpy as np

    stops = np.array([window.stop for window in windows])
    firsts = stops - [window.scored for window in windows]
    before = np.where(firsts > 0, ends[firsts - 1], 0)
    scored: list[int] = (ends[stops - 1] - before).tolist()
    return scored


METRIC = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_windows"}),
    compare=compare,
)
