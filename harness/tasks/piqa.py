"""piqa: which of two ways reaches a goal in the physical world.

Bisk et al. 2020, https://arxiv.org/abs/1911.11641; 1,838 validation items.
"""

from harness.records.questions import Question
from harness.suite.data_source import DataSource
from harness.tasks.choice_task import choice_task
from harness.tasks.rows import Row
from harness.tasks.shared import RowOptions


class Options(RowOptions):
    """``data`` has the published fields: goal, sol1, sol2, label (0 or 1)."""

    data: DataSource = DataSource(path="baber/piqa")


def make_question(row: Row) -> Question:
    """``Question: goal``, ``Answer:``, followed by each solution."""
    prompt = f"Question: {row.filled('goal')}\nAnswer:"
    options, answer = (row.text("sol1"), row.text("sol2")), row.index("label", "01")
    row.check_options(options, "'sol1', 'sol2'")
    return Question(row.where, "piqa", prompt, options, answer)


TASK = choice_task(__doc__, Options, make_question, title="piqa", split="validation")
