"""text_agreement: how long answers go together with a reference's, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from harness.metrics.side_by_side import compare_texts
from harness.scoring.scores.offline import OfflineMetric


class TextAgreement(OfflineMetric):
    """``compute(predictions=[token ids of each answer], references=[the same])``.

    Gives ``identical_rate``, the share of answers equal to the reference's, its standard error
    ``identical_rate_stderr`` and ``first_difference_median``, in tokens; an answer equal to its
    reference counts with its whole length. Nothing at all gives None.
    """

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="How long answers go together with a reference's, token by token.",
            citation="",
            inputs_description="predictions, references: the token ids of each answer",
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]
    ) -> dict[str, Any]:
        found = compare_texts(predictions, references)
        return {
            "identical_rate": found.numbers.get("identical_rate"),
            "identical_rate_stderr": found.stderr.get("identical_rate"),
            "first_difference_median": found.numbers.get("first_difference_median"),
        }
