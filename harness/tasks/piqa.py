"""piqa: which of two ways reaches a goal in the physical world.

Bisk et al. 2020, https://arxiv.org/abs/1911.11641; 1,838 validation items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.descriptions import Metric
from harness.metrics.choice_values import NORMED_VALUES, compare_choices, headline
from harness.records.record import Measured
from harness.scoring.multiple_choice import Question
from harness.suite.data_source import DataSource
from harness.tasks.rows import Row, RowOptions, check_question, measure_rows

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine

VALUES = NORMED_VALUES
HEADLINE = headline("piqa", norm=True)
compare = compare_choices


class Options(RowOptions):
    """``data`` has the published fields: goal, sol1, sol2, label (0 or 1)."""

    data: DataSource = DataSource(path="baber/piqa")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """The likelier solution, and the likelier per character (acc_norm)."""
    return measure_rows(engine, options, context, VALUES, make_question, "validation")


def make_question(row: Row) -> Question:
    """``Question: goal``, ``Answer:``, each solution behind it."""
    question = Question(
        id=row.where,
        subject="piqa",
        prompt=f"Question: {row.filled('goal')}\nAnswer:",
        options=(row.text("sol1"), row.text("sol2")),
        answer=row.index("label", "01"),
    )
    return check_question(row, question, "'sol1', 'sol2'")


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
