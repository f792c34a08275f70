"""hellaswag: which of four endings continues a description of everyday life.

Zellers et al. 2019, https://arxiv.org/abs/1905.07830; 10,042 validation items. Prompts and texts
are cleaned as lm-evaluation-harness does it.
"""

import re

from harness.records.questions import Question
from harness.suite.data_source import DataSource
from harness.tasks.choice_task import choice_task
from harness.tasks.rows import Row
from harness.tasks.shared import RowOptions


class Options(RowOptions):
    """``data`` has the published fields: activity_label, ctx_a, ctx_b, endings, label."""

    data: DataSource = DataSource(path="Rowan/hellaswag")


def make_question(row: Row) -> Question:
    """``Activity: context``, followed by each ending."""
    context = f"{row.filled('ctx_a')} {row.text('ctx_b').capitalize()}"
    prompt = clean_text(f"{row.text('activity_label')}: {context}")
    endings = tuple(map(clean_text, row.texts("endings", 4)))
    answer = row.index("label", "0123")
    row.check_options(endings, "'endings', cleaned")
    return Question(row.where, "hellaswag", prompt, endings, answer)


def clean_text(text: str) -> str:
    """Without WikiHow's marks in brackets; the text after one may have lost a space, as there."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


TASK = choice_task(__doc__, Options, make_question, title="hellaswag", split="validation")
