"""openbookqa: elementary science facts, applied; the question is a stem that an answer completes.

Mihaylov et al. 2018, https://arxiv.org/abs/1809.02789; 500 test items. The book of facts is not
shown, as in lm-evaluation-harness.
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
HEADLINE = headline("openbookqa", norm=True)
compare = compare_choices


class Options(RowOptions):
    """``data`` has the published fields: question_stem, choices {text, label}, answerKey."""

    data: DataSource = DataSource(path="allenai/openbookqa", name="main")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """The likelier answer, and the likelier per character (acc_norm)."""
    return measure_rows(engine, options, context, VALUES, make_question)


def make_question(row: Row) -> Question:
    """The stem alone, each choice behind it."""
    options, answer = read_labelled(row, 4)
    stem = row.filled("question_stem")
    question = Question(row.where, "openbookqa", stem, options, answer)
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
