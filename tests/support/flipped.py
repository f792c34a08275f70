"""Records with items that are right or wrong, for tests of what one answers and the other not."""

from __future__ import annotations

from typing import Any

from harness.records.record import Record
from tests.support.records import make_record

HASH = {"items_sha256": "same"}


def choice_record(
    precision: str, answers: str, gold: str, task: str = "mmlu", **items: Any
) -> Record:
    """``answers`` chosen where ``gold`` is right; ``-`` is an item that was not scored."""
    right = "".join("-" if a == "-" else "01"[a == g] for a, g in zip(answers, gold, strict=True))
    rows = {"chosen": answers, "right": right, "subjects": {"s": len(gold)}, **items}
    return make_record(task, precision, protocol=HASH, items=rows)


def normed_pair() -> tuple[Record, Record]:
    """Item 0 is lost by acc, 1 by acc_norm, 2 by both with another wrong answer, 3 by neither."""
    gold = "AAAA"
    first = choice_record(
        "fp32",
        gold,
        gold,
        "hellaswag",
        chosen_norm=gold,
        right_norm="1111",
        log_likelihoods=[[-2, -3, -4]] * 4,
    )
    second = choice_record(
        "nf4", "BABA", gold, "hellaswag", chosen_norm="ACCA", right_norm="1001",
        log_likelihoods=[[-4, -3, -5], [-3, -4, -5], [-4, -3, -5], [-2, -3, -4]],
    )  # fmt: skip
    return first, second


def gsm8k_record(precision: str, answers: list[str | None], right: str) -> Record:
    rows = {
        "right": right,
        "right_flexible": "1" * len(right),
        "answers": answers,
        "answers_flexible": ["7"] * len(right),
        "texts": [f"{precision} says {answer}" for answer in answers],
    }
    return make_record("gsm8k", precision, protocol=HASH, items=rows)


def lambada_record(precision: str, right: str, scores: list[float]) -> Record:
    rows = {"right": right, "log_likelihoods": scores}
    return make_record("lambada", precision, protocol=HASH, items=rows)


def nothing(_: str) -> None:
    """Beside the run file there is nothing."""
