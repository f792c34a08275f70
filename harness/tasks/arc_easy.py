"""arc_easy: the easier questions of school science tests, by the likelihood of each answer.

Clark et al. 2018, https://arxiv.org/abs/1803.05457; 2,376 test items with three to five answers.
The options are not shown in the prompt, as in lm-evaluation-harness.
"""

from harness.records.questions import Question
from harness.suite.data_source import DataSource
from harness.tasks.choice_task import choice_task
from harness.tasks.rows import Row
from harness.tasks.shared import RowOptions


class Options(RowOptions):
    """``data`` has the published fields: question, choices {text, label}, answerKey."""

    data: DataSource = DataSource(path="allenai/ai2_arc", name="ARC-Easy")


def make_question(row: Row) -> Question:
    """``Question: …``, ``Answer:``, followed by each choice; answerKey is one of their labels."""
    options, answer = row.labelled()
    prompt = f"Question: {row.filled('question')}\nAnswer:"
    row.check_options(options, "'choices'")
    return Question(row.where, "arc", prompt, options, answer)


TASK = choice_task(__doc__, Options, make_question, title="arc-easy")
