"""hellaswag: which of four endings goes on with a description of everyday life.

Zellers et al. 2019, https://arxiv.org/abs/1905.07830; 10,042 validation items. Prompts and texts
are cleaned as lm-evaluation-harness does it.
"""

from __future__ import annotations

import re
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
HEADLINE = headline("hellaswag", norm=True)
compare = compare_choices


class Options(RowOptions):
    """``data`` has the published fields: activity_label, ctx_a, ctx_b, endings, label."""

    data: DataSource = DataSource(path="Rowan/hellaswag")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """The likelier ending, and the likelier per character (acc_norm)."""
    return measure_rows(engine, options, context, VALUES, make_question, "validation")


def make_question(row: Row) -> Question:
    """``Activity: context``, each ending behind it."""
    context = f"{row.filled('ctx_a')} {row.text('ctx_b').capitalize()}"
    question = Question(
        id=row.where,
        subject="hellaswag",
        prompt=clean_text(f"{row.text('activity_label')}: {context}"),
        options=tuple(map(clean_text, row.texts("endings", 4))),
        answer=row.index("label", "0123"),
    )
    return check_question(row, question, "'endings', cleaned")


def clean_text(text: str) -> str:
    """Without WikiHow's marks in brackets; what follows one may have lost a space, as there."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
