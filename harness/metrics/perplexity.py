"""perplexity: exp of the mean negative log-likelihood of a text, in nats per token.

Numbers under different protocols, contexts, tokenizers or texts cannot be compared, so all of these
are stored with the number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harness.descriptions import Column, Margin, MeasureContext, Metric, ValueSpec
from harness.metrics.text_windows import (
    TOKEN_COUNTS,
    TextWindows,
    WindowOptions,
    check_text,
    compare_chunks,
    open_windows,
)
from harness.records.record import Measured, Record, Value
from harness.records.values import make_values
from harness.statistics.estimates import clustered_mean, exp_capped

if TYPE_CHECKING:
    import torch

    from harness.engines.base import Engine


_MARGIN = Margin(relative=0.005)
_RATIO = "exp(mean(nll - reference nll)), same tokens"


def _sampled(unit: str, text: str, **more: Any) -> ValueSpec:
    return ValueSpec(unit, "lower", text, sampled="chunks", **more)


VALUES = {
    "ppl": _sampled("", "exp(nll)", margin=_MARGIN, lists=("chunk_nll", "chunk_tokens")),
    "nll": _sampled("nats/token", "mean negative log-likelihood of the scored tokens"),
    "bits_per_byte": _sampled("bits/byte", "nll in bits over the text's UTF-8 bytes"),
    "word_perplexity": _sampled("", "exp(total nll / words); protocol lm-eval only"),
    "byte_perplexity": _sampled("", "exp(total nll / bytes); protocol lm-eval only"),
    **TOKEN_COUNTS,
    "ratio": _sampled("", _RATIO, paired=True, of="ppl", neutral=1.0, margin=_MARGIN),
}


def measure(engine: Engine, options: WindowOptions, context: MeasureContext) -> Measured:
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

    batch_size = text.run(options.batch_size, score)
    numbers, spread = _summarise(sums, text)
    items: dict[str, Any] = {"chunk_nll": sums}
    if nonfinite:
        numbers, spread, items = dict.fromkeys(numbers), {}, {}
    values = make_values(VALUES, numbers, spread, dict.fromkeys(spread, len(text.windows)))
    items["batch_size"] = batch_size
    reasons = [slow_because] if slow_because else []
    return text.make_measured(values, items, reasons, nonfinite, "log-likelihood")


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """``ratio`` from the chunks' paired differences, clustered by chunk."""
    return compare_chunks(candidate, reference, "chunk_nll", VALUES, "ratio", exp_capped)


def _summarise(
    sums: list[float], text: TextWindows
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Values, and their standard errors over windows.

    ``lm-eval`` divides by the bytes and words of the whole text, the others by the bytes of the
    scored tokens.
    """
    nll, stderr = clustered_mean(sums, text.scored)
    ppl = exp_capped(nll)
    numbers: dict[str, float | None] = {"ppl": ppl, "nll": nll, "bits_per_byte": None}
    spread = {"nll": stderr, "ppl": stderr and ppl * stderr}
    ends = [0, *text.text.ends.tolist()]  # in UTF-8 bytes, by the number of tokens before
    chunk_bytes = [ends[w.stop] - ends[w.stop - w.scored] for w in text.windows]
    scored_bytes = sum(chunk_bytes)
    if not scored_bytes:
        return numbers, spread
    per_byte, byte_stderr = clustered_mean(sums, chunk_bytes)
    if text.protocol["protocol"] == "lm-eval":
        total, words, size = math.fsum(sums), text.text.text_words, text.text.text_bytes
        per_byte = total / size
        for name, count in (("word_perplexity", words), ("byte_perplexity", size)):
            value = numbers[name] = exp_capped(total / count)
            spread[name] = byte_stderr and value * byte_stderr * scored_bytes / count
    numbers["bits_per_byte"] = per_byte / math.log(2)
    spread["bits_per_byte"] = byte_stderr and byte_stderr / math.log(2)
    return numbers, spread


METRIC = Metric(
    __doc__ or "",
    WindowOptions,
    VALUES,
    measure,
    (Column("ppl", "ppl", ".3f"), Column("×ref", "ratio", ".4f", stderr=True)),
    weighs={"quality": Column("perplexity, × the reference's", "ratio", ".3f", stderr=True)},
    needs=frozenset({"score_windows"}),
    how=frozenset({"text", "batch_size"}),
    least_context=lambda options: options.context,
    count_items=check_text,
    compare=compare,
)
