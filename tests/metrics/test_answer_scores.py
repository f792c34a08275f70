"""How sure the right answers are: by hand, paired with the reference, and never an accuracy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from harness.metrics.choice_values import (
    CHOICE_VALUES,
    compare_items,
    score_answers,
    summarise_rows,
)
from harness.records.record import Record
from harness.suite.models import Limit
from harness.verdicts.compare import compare_runs
from harness.verdicts.limits import judge_limits
from tests.support.records import make_record, make_run


def record(scores: list[list[float] | None], correct: str, precision: str = "fp32") -> Record:
    chosen = ["ABCD"[int(np.argmax(one))] if one else "-" for one in scores]
    right = ["-" if one is None else str(int(a == b)) for one, a, b in zip(scores, chosen, correct)]
    items: dict[str, Any] = {"log_likelihoods": scores, "correct": correct}
    return make_record(
        "mmlu", precision, items={**items, "chosen": chosen, "right": "".join(right)}
    )


def test_a_right_answer_s_probability_and_margin_by_hand() -> None:
    """ln of 0.5, 0.25, 0.25: the first is right by ln 2, the second wrong by as much."""
    scores = [math.log(0.5), math.log(0.25), math.log(0.25)]
    [first, second, none] = score_answers(
        {"log_likelihoods": [scores, [x - 7 for x in scores], None], "correct": "AB-"}
    )
    assert first == pytest.approx((math.log(0.5), math.log(2)))
    assert second == pytest.approx((math.log(0.25), -math.log(2)))
    assert none is None


def test_two_options_that_are_equal_have_no_margin() -> None:
    [(logprob, margin)] = score_answers({"log_likelihoods": [[-3.0, -3.0]], "correct": "B"})
    assert (logprob, margin) == (pytest.approx(-math.log(2)), 0.0)


def test_the_drop_is_paired_as_scipy_pairs_it() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(-5, 2, (60, 4))
    ours = theirs + rng.normal(0, 0.3, (60, 4))
    ours[:, 0] -= 0.2  # the right option
    candidate, reference = (
        record(side.tolist(), "A" * 60, name) for side, name in ((ours, "nf4"), (theirs, "fp32"))
    )
    found = compare_items(CHOICE_VALUES, candidate, reference)
    logprobs = [special.log_softmax(side, axis=1)[:, 0] for side in (theirs, ours)]
    known = stats.ttest_rel(*logprobs)
    drop = found["answer_logprob_drop"]
    assert drop.value == pytest.approx(np.mean(logprobs[0] - logprobs[1]))
    assert drop.p == pytest.approx(known.pvalue)
    assert drop.interval == pytest.approx(tuple(known.confidence_interval(0.95)))
    margins = [side[:, 0] - side[:, 1:].max(axis=1) for side in (theirs, ours)]
    assert found["answer_margin_drop"].value == pytest.approx(np.mean(margins[0] - margins[1]))
    values = summarise_rows(CHOICE_VALUES, reference.items, {"all": 60})
    assert values["answer_margin"].value == pytest.approx(margins[0].mean())


def test_it_sees_what_accuracy_does_not_see_yet() -> None:
    """Every right answer a little less likely, and none of 200 lost."""
    rng = np.random.default_rng(1)
    theirs = rng.normal(-5, 0.5, (200, 4))
    theirs[:, 0] += 8
    ours = theirs + rng.normal(0, 0.3, (200, 4))
    ours[:, 0] -= 0.2
    found = compare_items(
        CHOICE_VALUES, record(ours.tolist(), "A" * 200), record(theirs.tolist(), "A" * 200)
    )
    assert found["accuracy_drop"].value == 0
    assert (found["answer_margin_drop"].bounds or (0, 0))[0] > 0.1


def test_they_are_judged_by_limits_only() -> None:
    """A margin in nats would be a guess: how much a point of accuracy costs differs by model."""
    theirs, ours = (
        record([[-1.0, -1.5 - (1 + i % 3 / 10) * x] for i in range(40)], "A" * 40, "nf4")
        for x in (1.0, 0.0)
    )
    assert {one.value for one in compare_runs(make_run(theirs), make_run(ours)).compared} == {"acc"}
    limit = Limit(
        precision=("nf4",),
        model=("m",),
        metric="mmlu.answer_margin_drop",
        max=0.5,
        position="x:1:1",
    )
    paired = ours.model_copy(update={"paired": compare_items(CHOICE_VALUES, ours, theirs)})
    [verdict] = judge_limits([limit], paired, theirs, "")
    assert verdict.verdict == "FAIL"


def test_older_records_do_not_say_which_option_is_right() -> None:
    old = make_record("mmlu", items={"right": "10", "log_likelihoods": [[-1.0, -2.0]] * 2})
    assert score_answers(old.items) == []
    assert "answer_margin_drop" not in compare_items(CHOICE_VALUES, old, old)


def test_items_that_were_not_scored_are_left_out_of_both() -> None:
    scores = [[-1.0, -2.0], [-1.0, -3.0], None]
    one, other = record(scores, "AA-"), record([[-1.0, -2.5], None, None], "A--")
    drop = compare_items(CHOICE_VALUES, one, other).get("answer_margin_drop")
    assert drop is None  # a single pair has no spread
    both = compare_items(CHOICE_VALUES, one, one)["answer_margin_drop"]
    assert (both.value, both.n) == (0.0, 2)
