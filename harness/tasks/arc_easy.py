"""arc_easy: the easier questions of school science tests, by the likelihood of each answer.

Clark et al. 2018, https://arxiv.org/abs/1803.05457; 2,376 test items with three to five answers.
The options are not shown in the prompt, as in lm-evaluation-harness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.descriptions import Metric
from harness.metrics.choice_values import NORMED_VALUES, compare_choices, headline
from harness.records.record import Measured
from harness.scoring.multiple_choice import Question
from harness.suite.data_source import DataSource
from harness.tasks.rows import Row, RowOptions, check_question, measure_rows, read_labelled

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine

VALUES = NORMED_VALUES
HEADLINE = headline("arc-easy", norm=True)
compare = compare_choices


class Options(RowOptions):
    """``data`` has the published fields: question, choices {text, label}, answerKey."""

    data: DataSource = DataSource(path="allenai/ai2_arc", name="ARC-Easy")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """The likelier answer, and the likelier per character (acc_norm)."""
    return measure_rows(engine, options, context, VALUES, make_question)


def make_question(row: Row) -> Question:
    """``Question: …``, ``Answer:``, each choice behind it; answerKey is one of their labels."""
    options, answer = read_labelled(row)
    prompt = f"Question: {row.filled('question')}\nAnswer:"
    question = Question(row.where, "arc", prompt, options, answer)
    return check_question(row, question, "'choices'")


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
