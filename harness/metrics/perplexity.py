"""perplexity: exp of the mean negative log-likelihood of a text, in nats per token.

Numbers under different protocols, contexts, tokenizers or texts cannot be compared, so all of these
are stored with the number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from harness.descriptions import Column, Margin, MeasureContext, Metric, ValueSpec
from harness.metrics.text_windows import TextWindows, WindowOptions, open_windows, pair_chunks
from harness.metrics.windows import Protocol, Window
from harness.records.record import Measured, Record, Status, Validity, Value
from harness.records.values import make_values, to_value
from harness.statistics.estimates import clustered_mean, clustered_ratio, exp_capped

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from harness.engines.base import Engine


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
# Unknown where a token has no finite NLL; the last two are for protocol lm-eval only.
_RATES = ("ppl", "nll", "bits_per_byte", "word_perplexity", "byte_perplexity")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Score every window of the tokenised text, sum in float64; errors as `open_windows`."""
    text = open_windows(engine, options, context)
    sums: list[float] = []
    nonfinite = 0
    slow_because: str | None = None

    def score(rows: torch.Tensor, scored: int) -> None:
        nonlocal nonfinite, slow_because
        scores = engine.score_windows(rows, scored)
        slow_because = scores.slow_because
        nonfinite += int((~scores.nll.isfinite()).sum())
        sums.extend(scores.nll.sum(dim=1).tolist())

    batch_size = text.run(options.batch_size, context, score)
    tokens = sum(text.scored)
    items: dict[str, Any] = {"chunk_tokens": text.scored, "batch_size": batch_size}
    reasons = [slow_because] if slow_because else []
    numbers: dict[str, float | None] = {"tokens": tokens, "nonfinite_tokens": nonfinite}
    spread: dict[str, float | None] = {}
    status: Status = "flagged" if reasons else "ok"
    if nonfinite:
        status = "invalid"
        reasons.insert(0, f"{nonfinite} of {tokens} tokens have a NaN or infinite log-likelihood")
        names = _RATES if options.protocol == "lm-eval" else _RATES[:3]
        numbers = dict.fromkeys(names) | numbers
    else:
        items = {"chunk_nll": sums, **items}
        rates, spread = _summarise(sums, text, options.protocol)
        numbers = rates | numbers
    return Measured(
        values=make_values(VALUES, numbers, spread, dict.fromkeys(spread, len(text.windows))),
        protocol=text.protocol,
        items=items,
        validity=Validity(status=status, reasons=tuple(reasons)),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """``ratio`` from the chunks' paired differences, clustered by chunk."""
    chunks = pair_chunks(candidate, reference, "chunk_nll")
    if chunks is None:
        return {}
    ours, theirs, tokens = chunks
    estimate = clustered_ratio(ours, theirs, tokens)
    if estimate is not None:
        return {"ratio": to_value(VALUES["ratio"], estimate)}
    difference, _ = clustered_mean([a - b for a, b in zip(ours, theirs, strict=True)], tokens)
    return make_values(VALUES, {"ratio": exp_capped(difference)}, n={"ratio": 1})


def _summarise(
    sums: list[float], text: TextWindows, protocol: Protocol
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Values, and their standard errors over windows.

    ``lm-eval`` divides by the bytes and words of the whole text, the others by the bytes of the
    scored tokens.
    """
    nll, stderr = clustered_mean(sums, text.scored)
    ppl = exp_capped(nll)
    numbers: dict[str, float | None] = {"ppl": ppl, "nll": nll, "bits_per_byte": None}
    spread = {"nll": stderr, "ppl": stderr and ppl * stderr}
    chunk_bytes = _scored_bytes(text.windows, text.text.ends)
    scored_bytes = sum(chunk_bytes)
    if not scored_bytes:
        return numbers, spread
    per_byte, byte_stderr = clustered_mean(sums, chunk_bytes)
    if protocol == "lm-eval":
        total, words, size = math.fsum(sums), text.text.text_words, text.text.text_bytes
        per_byte = total / size
        for name, count in (("word_perplexity", words), ("byte_perplexity", size)):
            value = numbers[name] = exp_capped(total / count)
            spread[name] = byte_stderr and value * byte_stderr * scored_bytes / count
    numbers["bits_per_byte"] = per_byte / math.log(2)
    spread["bits_per_byte"] = byte_stderr and byte_stderr / math.log(2)
    return numbers, spread


def _scored_bytes(windows: list[Window], ends: npt.NDArray[np.int64]) -> list[int]:
    """UTF-8 bytes of each window's scored tokens; every window has at least one."""
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
    headline=(Column("ppl", "ppl", ".3f"), Column("×ref", "ratio", ".4f", stderr=True)),
    needs=frozenset({"score_windows"}),
    compare=compare,
)
