"""accuracy: the share of predicted labels that are the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from harness.scoring.scores.offline import OfflineMetric
from harness.statistics.estimates import share_stderr


class Accuracy(OfflineMetric):
    """``compute(predictions=[ints], references=[ints])``.

    Gives ``accuracy`` from 0 to 1 and ``accuracy_stderr``, the standard error of a share of n
    items, sqrt(p(1-p)/(n-1)), as lm-evaluation-harness has it; None for fewer than two.
    """

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="The share of predicted labels that are the reference's.",
            citation="",
            inputs_description="predictions, references: labels as whole numbers",
            features=datasets.Features({"predictions": label, "references": label}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        right = [a == b for a, b in zip(predictions, references, strict=True)]
        return {
            "accuracy": sum(right) / len(right) if right else None,
            "accuracy_stderr": share_stderr(sum(right), len(right)),
        }
