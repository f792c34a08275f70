"""`evaluate.Metric` classes that score predictions, each usable by itself.

    from harness.scoring.scores import ExactMatch
    ExactMatch().compute(predictions=["1,000"], references=["1000"], regexes_to_ignore=[","])

They need no hub, and they write nothing: unless asked otherwise they keep their inputs in memory.
"""

import math
import re
import string
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

import datasets
import evaluate

from harness.statistics.shares import share_stderr


class OfflineMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Keeps its inputs, described by ``FEATURES``, in memory, and leaves no file behind.

    ``keep_in_memory=False`` and the other arguments of `evaluate.Metric` bring back its own
    behaviour, which a distributed evaluation needs.
    """

    FEATURES: datasets.Features

    def __init__(self, *args: Any, keep_in_memory: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate makes a folder in the user's cache even where it keeps everything in memory.
        return "" if self.keep_in_memory else str(super()._build_data_dir())

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(self.__doc__, "", self.FEATURES, ", ".join(self.FEATURES))


class ExactMatch(OfflineMetric):
    """The share of predictions that equal the reference, to the letter; both are texts.

    `evaluate`'s exact_match with the same options in the same order, as lm-evaluation-harness uses
    it:

    - ``regexes_to_ignore``: what each matches is removed, one after the other;
    - ``ignore_case``, ``ignore_punctuation``, ``ignore_numbers``: then lower case, then without
      ASCII punctuation, then without ASCII digits.

    Gives ``exact_match`` from 0 to 1, ``exact_match_stderr`` (None for fewer than two pairs) and
    ``matches``, a bool per pair. Without any pair: None, and no matches.
    """

    FEATURES = datasets.Features(
        {name: datasets.Value("string") for name in ("predictions", "references")}
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

        pairs = zip(predictions, references, strict=True)
        matches = [normalise(ours) == normalise(theirs) for ours, theirs in pairs]
        return {
            "exact_match": fmean(matches) if matches else None,
            "exact_match_stderr": share_stderr(sum(matches), len(matches)),
            "matches": matches,
        }


class Repetition(OfflineMetric):
    """How much of each answer, given as token ids, repeats what it said before.

    ``repetition_rate``: the mean over the answers of `repeated_share` for ``ngram`` (default 4),
    ``repetition_rate_stderr``: its standard error, ``n``: the number of answers that are long
    enough to have one. None where no answer is.
    """

    FEATURES = datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))})

    def _compute(self, predictions: Sequence[Sequence[int]], ngram: int = 4) -> dict[str, Any]:
        found = [repeated_share(tokens, ngram) for tokens in predictions]
        shares = [share for share in found if share is not None]
        n = len(shares)
        return {
            "repetition_rate": fmean(shares) if shares else None,
            "repetition_rate_stderr": stdev(shares) / math.sqrt(n) if n > 1 else None,
            "n": n,
        }


def repeated_share(tokens: Sequence[int], n: int = 4) -> float | None:
    """1 - distinct n-grams / n-grams of one answer; None for an answer of fewer than n tokens.

    The seq-rep-n of Welleck et al. 2020, https://arxiv.org/abs/1908.04319, who take n = 4 too.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None
