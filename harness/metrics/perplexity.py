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
from typing import TYPE_CHECKING

from pydantic import model_validator

from harness.errors import InputError
from harness.metrics._forward import MeasureContext, run_in_batches
from harness.metrics._token_nll import TokenScorer, describe_fallback
from harness.metrics._windows import (
    Protocol,
    Window,
    WindowOptions,
    plan_windows,
    start_token,
    step_of,
)
from harness.options import Column, ValueSpec
from harness.record import Measured, Record, Validity, Value
from harness.values import exp_capped, make_values

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.metrics._tokenised import TokenisedText
    from harness.models.load import LoadedCell

NEEDS_FRESH_PROCESS = False
REFERENCE_REUSABLE = True


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


VALUES = {
    "ppl": ValueSpec("", "lower", "exp(nll)"),
    "nll": ValueSpec("nats/token", "lower", "mean negative log-likelihood of the scored tokens"),
    "bits_per_byte": ValueSpec("bits/byte", "lower", "nll in bits over the text's UTF-8 bytes"),
    "word_perplexity": ValueSpec("", "lower", "exp(total nll / words); protocol lm-eval only"),
    "byte_perplexity": ValueSpec("", "lower", "exp(total nll / bytes); protocol lm-eval only"),
    "tokens": ValueSpec("tokens", None, "tokens scored"),
    "nonfinite_tokens": ValueSpec("tokens", "lower", "tokens whose NLL is NaN or infinite"),
    "ratio": ValueSpec(
        "",
        "lower",
        "exp(mean(nll - reference nll)), same tokens",
        paired=True,
        of="ppl",
        neutral=1.0,
    ),
}
# Protocols whose windows start with a token of the tokenizer's rather than the text's.
STARTED = ("lm-eval", "llamacpp")
HEADLINE = (Column("ppl", "ppl", ".3f"), Column("×ref", "ratio", ".4f", stderr=True))


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """Score every window of the tokenised text, sum in float64.

    Raises `InputError` for a context beyond the model's, a text too short for the protocol and a
    tokenizer without the tokens it needs.
    """
    from harness.metrics._tokenised import tokenise_text

    limit = loaded.max_context
    if limit is not None and options.context > limit:
        raise InputError(
            f"context {options.context} is longer than the {limit} tokens that "
            f"{loaded.job.model.name} was made for"
        )
    text = tokenise_text(loaded, options.text, context)
    windows, first = _plan(loaded, options, text)
    scores = _score_windows(loaded, text.ids, windows, options.batch_size, context)
    protocol = {
        **options.model_dump(exclude={"batch_size"}, mode="json"),
        "stride": step_of(options.protocol, options.context, options.stride),
        "text_sha256": text.text_sha256,
        "text_tokens": len(text.ids),
        "tokenizer_sha256": loaded.job.files.tokenizer_sha256,
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
    """``ratio`` from the chunks' paired differences, clustered by chunk.

    Its 95 % interval is exp(d ± t se), d the mean difference and se its standard error, with
    Student's t of one degree of freedom less than there are chunks.
    """
    tokens = candidate.items.get("chunk_tokens")
    ours, theirs = candidate.items.get("chunk_nll"), reference.items.get("chunk_nll")
    if not tokens or not ours or not theirs or tokens != reference.items.get("chunk_tokens"):
        return {}
    difference, stderr = ratio_of_sums([a - b for a, b in zip(ours, theirs, strict=True)], tokens)
    ratio = exp_capped(difference)
    n = {"ratio": len(tokens)}
    if stderr is None:
        return make_values(VALUES, {"ratio": ratio}, n=n)
    # A fifth of a second that only a comparison is to cost: pytest imports this module to collect.
    from scipy.special import stdtrit

    half = float(stdtrit(len(tokens) - 1, 0.975)) * stderr
    interval = (exp_capped(difference - half), exp_capped(difference + half))
    return make_values(VALUES, {"ratio": ratio}, {"ratio": ratio * stderr}, n, {"ratio": interval})


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


def _plan(
    loaded: LoadedCell, options: Options, text: TokenisedText
) -> tuple[list[Window], int | None]:
    """The text's windows and the token the protocol starts them with."""
    tokens, tokenizer = len(text.ids), loaded.require_tokenizer()
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
    loaded: LoadedCell,
    ids: npt.NDArray[np.int32],
    windows: list[Window],
    size: int,
    context: MeasureContext,
) -> _Scores:
    """Neighbouring windows of one shape together, fewer where memory runs out."""
    import numpy as np
    import torch

    scorer = TokenScorer(loaded.model)
    sums: list[float] = []
    nonfinite = 0

    def run(batch: Sequence[Window]) -> None:
        nonlocal nonfinite
        rows = torch.from_numpy(np.stack([window.sequence(ids) for window in batch]))
        nll = scorer.score(rows.to(loaded.device), batch[0].scored)
        nonfinite += int((~nll.isfinite()).sum())
        sums.extend(nll.sum(dim=1).tolist())
        context.progress(len(sums), len(windows), "windows")

    for _, same in groupby(windows, key=lambda window: window.shape):
        size = run_in_batches(list(same), size, run)
    reason = scorer.fallback and describe_fallback(loaded.model, scorer.fallback)
    return _Scores(sums, nonfinite, size, reason)


def _summarise(
    sums: list[float], windows: list[Window], text: TokenisedText, protocol: Protocol
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Values and their standard errors over windows; per byte and word as the text has them.

    ``lm-eval`` counts the bytes and words of the whole text, the others the scored tokens' bytes.
    """
    nll, stderr = ratio_of_sums(sums, [window.scored for window in windows])
    numbers: dict[str, float | None] = {"ppl": exp_capped(nll), "nll": nll, "bits_per_byte": None}
    spread = {"nll": stderr, "ppl": None if stderr is None else exp_capped(nll) * stderr}
    chunk_bytes = _scored_bytes(windows, text.ends)
    scored_bytes = sum(chunk_bytes)
    if not scored_bytes:
        return numbers, spread
    per_byte, byte_stderr = ratio_of_sums(sums, chunk_bytes)
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
