"""entropy: how undecided the model is, the mean entropy of its next-token distributions in nats.

H = -Σ p ln p over the vocabulary (Shannon 1948), at every scored token of a text; exp(H) is the
number of equally likely tokens that would be as undecided. The standard error is over windows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.descriptions import Column, MeasureContext, Metric, ValueSpec
from harness.metrics.text_windows import WindowOptions, compare_chunks, open_windows
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values
from harness.statistics.estimates import clustered_mean

if TYPE_CHECKING:
    import torch

    from harness.engines.base import Engine, Outputs


class Options(WindowOptions):
    """``context`` and ``stride`` in tokens; ``stride`` belongs to ``sliding`` alone."""


VALUES = {
    "entropy": ValueSpec("nats/token", None, "mean over the scored tokens", sampled="chunks"),
    "tokens": ValueSpec("tokens", None, "tokens scored"),
    "increase": ValueSpec(
        "nats/token",
        None,
        "entropy less the reference's, same tokens",
        sampled="chunks",
        paired=True,
        of="entropy",
    ),
}


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Sums per window in float64; invalid where a distribution is not finite."""
    import torch

    text = open_windows(engine, options, context)
    sums: list[float] = []
    reasons: list[str] = []
    outputs: Outputs | None = None

    def score(rows: torch.Tensor, scored: int) -> None:
        nonlocal outputs
        inputs = rows[:, :-1]
        length = inputs.shape[1]
        positions = torch.arange(length - scored, length, device=engine.device)
        if outputs is None:
            outputs = engine.open_outputs(inputs[:1], positions)
        parts = [
            torch.special.entr(logits.double().softmax(dim=-1)).sum(dim=-1).cpu()
            for _, logits in outputs.read_logits(inputs, positions)
        ]
        sums.extend(torch.cat(parts).view(len(rows), scored).sum(dim=1).tolist())

    text.run(options.batch_size, score)
    mean, stderr = clustered_mean(sums, text.scored)
    tokens = sum(text.scored)
    if not math.isfinite(mean):
        reasons.append("some tokens have a NaN or infinite distribution")
    numbers = {"entropy": None if reasons else mean, "tokens": tokens}
    return Measured(
        values=make_values(VALUES, numbers, {"entropy": stderr}, {"entropy": len(sums)}),
        protocol=text.protocol,
        items={} if reasons else {"chunk_entropy": sums, "chunk_tokens": text.scored},
        validity=Validity(status="invalid" if reasons else "ok", reasons=tuple(reasons)),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """``increase`` from the windows' paired differences."""
    return compare_chunks(candidate, reference, "chunk_entropy", VALUES, "increase")


METRIC = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=(
        Column("entropy\nnats", "entropy", ".3f", stderr=True),
        Column("+ref", "increase", "+.4f"),
    ),
    needs=frozenset({"open_outputs"}),
    how=frozenset({"text"}),  # its hash is in the protocol, too
    compare=compare,
)
