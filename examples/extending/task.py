"""series: which number comes next, by the likelihood of each.

Eight series of small numbers, made for this example; too few to judge a model.
"""

from harness.records.questions import Question
from harness.tasks.choice_task import choice_task
from harness.tasks.rows import Row
from harness.tasks.shared import RowOptions


class Options(RowOptions):
    """``data`` has the fields series, options (a list) and answer (one of them)."""


def make_question(row: Row) -> Question:
    """``Series: 1, 2, 3,`` followed by each option."""
    options = row.texts("options")
    prompt, answer = f"Series: {row.filled('series')},", row.index("answer", options)
    row.check_options(options, "'options'")
    return Question(row.where, "series", prompt, options, answer)


# Not normed: the options are all one character long.
TASK = choice_task(__doc__, Options, make_question, title="series", normed=False)
