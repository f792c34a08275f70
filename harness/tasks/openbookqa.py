"""openbookqa: elementary science facts, applied; the question is a stem that an answer completes.

Mihaylov et al. 2018, https://arxiv.org/abs/1809.02789; 500 test items. The book of facts is not
shown, as in lm-evaluation-harness.
"""

from harness.records.questions import Question
from harness.suite.data_source import DataSource
from harness.tasks.choice_task import choice_task
from harness.tasks.rows import Row
from harness.tasks.shared import RowOptions


class Options(RowOptions):
    """``data`` has the published fields: question_stem, choices {text, label}, answerKey."""

    data: DataSource = DataSource(path="allenai/openbookqa", name="main")


def make_question(row: Row) -> Question:
    """The stem alone, followed by each choice."""
    options, answer = row.labelled(4)
    stem = row.filled("question_stem")
    row.check_options(options, "'choices'")
    return Question(row.where, "openbookqa", stem, options, answer)


TASK = choice_task(__doc__, Options, make_question, title="openbookqa")
