"""piqa: which of two ways reaches a goal in the physical world.

Bisk et al. 2020, https://arxiv.org/abs/1911.11641; 1,838 validation items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.descriptions import DataSource
from harness.metrics.choice_values import NORMED_VALUES, compare_choices, headline
from harness.records.record import Measured
from harness.scoring.multiple_choice import Question
from harness.tasks.rows import Row, RowOptions, check_question, measure_rows

if TYPE_CHECKING:
    from harness.engines.transformers.forward import MeasureContext
    from harness.engines.transformers.load import LoadedCell

NEEDS_FRESH_PROCESS = False
REFERENCE_REUSABLE = True
VALUES = NORMED_VALUES
HEADLINE = headline("piqa", norm=True)
compare = compare_choices


class Options(RowOptions):
    """``data`` has the published fields: goal, sol1, sol2, label (0 or 1)."""

    data: DataSource = DataSource(path="baber/piqa")


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """The likelier solution, and the likelier per character (acc_norm)."""
    return measure_rows(loaded, options, context, VALUES, make_question, "validation")


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
