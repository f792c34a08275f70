"""repetition: how much of each answer it has said before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import datasets
import evaluate

from harness.metrics.side_by_side import repeated_share
from harness.scoring.scores.offline import OfflineMetric


class Repetition(OfflineMetric):
    """``compute(predictions=[token ids of each answer])``, with ``ngram`` (default 4).

    Gives ``repetition_rate``, the mean over the answers of 1 - distinct n-grams / n-grams
    (seq-rep-n, see `repeated_share`), its standard error ``repetition_rate_stderr`` and ``n``, how
    many answers are long enough to have one. None without such.
    """

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="The share of an answer's token n-grams that it holds before.",
            citation="",
            inputs_description="predictions: the token ids of each answer",
            features=datasets.Features({"predictions": ids}),
        )

    def _compute(self, predictions: Sequence[Sequence[int]], ngram: int = 4) -> dict[str, Any]:
        found = [repeated_share(tokens, ngram) for tokens in predictions]
        shares = [share for share in found if share is not None]
        return {
            "repetition_rate": fmean(shares) if shares else None,
            "repetition_rate_stderr": (
                stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else None
            ),
            "n": len(shares),
        }
