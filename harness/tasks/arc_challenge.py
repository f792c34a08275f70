"""arc_challenge: school science questions that word overlap and retrieval get wrong.

Clark et al. 2018, https://arxiv.org/abs/1803.05457; 1,172 test items, asked as in `arc_easy`.
"""

from harness.suite.data_source import DataSource
from harness.tasks import arc_easy
from harness.tasks.choice_task import choice_task


class Options(arc_easy.Options):
    """``data`` has the published fields: question, choices {text, label}, answerKey."""

    data: DataSource = DataSource(path="allenai/ai2_arc", name="ARC-Challenge")


TASK = choice_task(__doc__, Options, arc_easy.make_question, title="arc-challenge")
