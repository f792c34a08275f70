"""exact_match: the share of predictions that equal the reference, to the letter.

`evaluate`'s exact_match with the same options in the same order, as lm-evaluation-harness uses it.
It also gives the standard error of the share and the outcome of each pair.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate

from harness.scoring.scores.offline import OfflineMetric
from harness.statistics.shares import share_stderr


class ExactMatch(OfflineMetric):
    """``compute(predictions=[texts], references=[texts])``, with any of

    - ``regexes_to_ignore``: what each matches is removed, one after the other;
    - ``ignore_case``, ``ignore_punctuation``, ``ignore_numbers``: then lower case, then without
      ASCII punctuation, then without ASCII digits.

    Gives ``exact_match`` from 0 to 1, ``exact_match_stderr`` (None for fewer than two pairs) and
    ``matches``, a bool per pair. Without any pair: None, and no matches.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="The share of predictions that equal the reference, to the letter.",
            citation="",
            inputs_description="predictions, references: texts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        regexes_to_ignore: Iterable[str] = (),
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        ignore_numbers: bool = False,
    ) -> dict[str, Any]:
        patterns = [re.compile(pattern) for pattern in regexes_to_ignore]
        ignored = string.punctuation * ignore_punctuation + string.digits * ignore_numbers
        table = str.maketrans("", "", ignored)

        def normalise(text: str) -> str:
            for pattern in patterns:
                text = pattern.sub("", text)
            return (text.lower() if ignore_case else text).translate(table)

        matches = [
            normalise(ours) == normalise(theirs)
            for ours, theirs in zip(predictions, references, strict=True)
        ]
        return {
            "exact_match": sum(matches) / len(matches) if matches else None,
            "exact_match_stderr": share_stderr(sum(matches), len(matches)),
            "matches": matches,
        }
