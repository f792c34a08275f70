"""winogrande: whom or what a sentence's blank stands for, one of two.

Sakaguchi et al. 2019, https://arxiv.org/abs/1907.10641; 1,267 validation items. Partial evaluation
(Trinh and Le 2018, https://arxiv.org/abs/1806.02847) as in lm-evaluation-harness: the sentence is
begun with either option in the blank, and what is scored is its end, the same for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.descriptions import Metric
from harness.errors import InputError
from harness.metrics.choice_values import CHOICE_VALUES, compare_choices, headline
from harness.records.record import Measured
from harness.scoring.multiple_choice import Question
from harness.suite.data_source import DataSource
from harness.tasks.rows import Row, RowOptions, check_question, measure_rows

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine

VALUES = CHOICE_VALUES
HEADLINE = headline("winogrande")
compare = compare_choices


class Options(RowOptions):
    """``data`` has the published fields: sentence with one ``_``, option1, option2, answer."""

    data: DataSource = DataSource(path="allenai/winogrande", name="winogrande_xl")


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """The option after which the sentence's end is likelier."""
    return measure_rows(engine, options, context, VALUES, make_question, "validation")


def make_question(row: Row) -> Question:
    """Two beginnings, one end."""
    sentence = row.text("sentence")
    start, blank, end = sentence.partition("_")
    if not blank:
        raise InputError(f"{row.where}: field 'sentence' has no blank, '_': {start!r}")
    if row.own and "_" in end:
        raise InputError(f"{row.where}: field 'sentence' has more than one blank, '_'")
    if row.own and not end.strip():
        raise InputError(f"{row.where}: field 'sentence' has nothing behind its blank to score")
    choices = (row.filled("option1"), row.filled("option2"))
    question = Question(
        id=row.where,
        subject="winogrande",
        prompt=start,
        options=(end.strip(),) * 2,
        answer=row.index("answer", "12"),
        prompts=(start + choices[0], start + choices[1]),
        asked=sentence,
        choices=choices,
    )
    return check_question(row, question, "'option1', 'option2'")


TASK = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"score_targets"}),
    compare=compare,
)
