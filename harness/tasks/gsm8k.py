"""gsm8k: grade-school word problems, answered at length, the final number compared.

Cobbe et al. 2021, https://arxiv.org/abs/2110.14168; 1,319 test items. Prompts, examples, stop
strings, filters and the comparison are those of lm-evaluation-harness's task `gsm8k`, version 3.
"""

import re

from pydantic import Field

from harness.suite.data_source import DataSource
from harness.tasks.generative_task import (
    GenerativeOptions,
    Problem,
    Reading,
    Rules,
    generative_task,
    shorten,
)
from harness.tasks.rows import Row


class Options(GenerativeOptions):
    """``data`` and ``examples`` have the published fields: question, answer (… #### number)."""

    data: DataSource = DataSource(path="openai/gsm8k", name="main")
    shots: int = Field(5, ge=0)


def make_problem(row: Row) -> Problem:
    """``Question: …``, ``Answer:``; the answer is the published one, reasoning included."""
    question, answer = row.filled("question"), row.text("answer")
    if not has_digit(find_strict(answer) or ""):
        raise row.error(f"answer {shorten(answer)!r} has no line '#### number'")
    return Problem(f"Question: {question}\nAnswer:", answer, question)


def find_strict(text: str) -> str | None:
    """The first number after '####', as the examples end."""
    found = re.findall(r"#### (\-?[0-9\.\,]+)", text)
    return found[0].strip() if found else None


def find_flexible(text: str) -> str | None:
    """The last number anywhere, with the signs that look like a part of it."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return "".join(found[-1]).strip() if found else None


def has_digit(number: str) -> bool:
    """Whether it is more than dots and commas, which the filters take for a number."""
    return re.search("[0-9]", number) is not None


RULES = Rules(
    stop=("Question:", "</s>", "<|im_end|>"),
    readings={
        "": Reading("right numbers after '####' (strict-match)", find_strict),
        "_flexible": Reading("right last numbers (flexible-extract)", find_flexible),
    },
    ignored=(",", r"\$", r"(?s).*#### ", r"\.$"),
    is_answer=has_digit,
)
TASK = generative_task(__doc__, Options, make_problem, RULES, title="gsm8k")
