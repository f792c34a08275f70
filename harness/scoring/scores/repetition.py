"""repetition: how much of each answer repeats what it said before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import datasets
import evaluate

from harness.scoring.scores.offline import OfflineMetric


class Repetition(OfflineMetric):
    """``compute(predictions=[token ids of each answer])``, with ``ngram`` (default 4).

    Gives ``repetition_rate``, the mean over the answers of 1 - distinct n-grams / n-grams
    (seq-rep-n, see `repeated_share`), its standard error ``repetition_rate_stderr`` and ``n``, the
    number of answers that are long enough to have one. None where no answer is.
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


def repeated_share(tokens: Sequence[int], n: int = 4) -> float | None:
    """1 - distinct n-grams / n-grams of one answer; None for an answer of fewer than n tokens.

    The seq-rep-n of Welleck et al. 2020, https://arxiv.org/abs/1908.04319, who take n = 4 too.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None
