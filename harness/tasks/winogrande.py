"""winogrande: whom or what a sentence's blank means, one of two.

Sakaguchi et al. 2019, https://arxiv.org/abs/1907.10641; 1,267 validation items. Partial evaluation
(Trinh and Le 2018, https://arxiv.org/abs/1806.02847) as in lm-evaluation-harness: the sentence is
begun with either option in the blank, and its end, the same for both, is scored.
"""

from harness.records.questions import Question
from harness.suite.data_source import DataSource
from harness.tasks.choice_task import choice_task
from harness.tasks.rows import Row
from harness.tasks.shared import RowOptions


class Options(RowOptions):
    """``data`` has the published fields: sentence with one ``_``, option1, option2, answer."""

    data: DataSource = DataSource(path="allenai/winogrande", name="winogrande_xl")


def make_question(row: Row) -> Question:
    """Two beginnings, one end."""
    sentence = row.text("sentence")
    start, blank, end = sentence.partition("_")
    if not blank:
        raise row.error(f"field 'sentence' has no blank, '_': {start!r}")
    if row.own and "_" in end:
        raise row.error("field 'sentence' has more than one blank, '_'")
    if row.own and not end.strip():
        raise row.error("field 'sentence' has nothing after its blank to score")
    choices = (row.filled("option1"), row.filled("option2"))
    prompts, ends = (start + choices[0], start + choices[1]), (end.strip(),) * 2
    answer = row.index("answer", "12")
    row.check_options(ends, "'option1', 'option2'", prompts)
    return Question(
        row.where, "winogrande", start, ends, answer, " ", prompts, asked=sentence, choices=choices
    )


TASK = choice_task(
    __doc__, Options, make_question, title="winogrande", split="validation", normed=False
)
