"""arc_challenge: school science questions that word overlap and retrieval get wrong.

Clark et al. 2018, https://arxiv.org/abs/1803.05457; 1,172 test items, asked as in `arc_easy`.
"""

from __future__ import annotations

from harness.descriptions import Metric
from harness.metrics.choice_values import NORMED_VALUES, compare_choices, headline
from harness.suite.data_source import DataSource
from harness.tasks import arc_easy

VALUES = NORMED_VALUES
HEADLINE = headline("arc-challenge", norm=True)
compare = compare_choices
measure = arc_easy.measure


class Options(arc_easy.Options):
    """``data`` has the published fields: question, choices {text, label}, answerKey."""

    data: DataSource = DataSource(path="allenai/ai2_arc", name="ARC-Challenge")


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
