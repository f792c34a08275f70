"""perplexity's ratio to the reference: paired by chunk, with Student's interval."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.metrics.perplexity import compare
from tests.support.records import make_record


def chunk_record(nll: list[float], tokens: list[int]) -> Any:
    return make_record("perplexity", items={"chunk_nll": nll, "chunk_tokens": tokens})


def test_the_ratio_is_paired_by_chunk() -> None:
    """Differences 1, 0, 2 on 1, 2, 3 tokens, four times: mean 0.5; residuals 0.5, -1, 0.5."""
    reference = chunk_record([10.0, 1.0, 5.0] * 4, [1, 2, 3] * 4)
    candidate = chunk_record([11.0, 1.0, 7.0] * 4, [1, 2, 3] * 4)
    ratio = compare(candidate, reference)["ratio"]
    stderr = math.sqrt(4 * 1.5 / (12 * 11)) / 2  # neighbours differ, so none counts as fewer
    assert ratio.value == pytest.approx(math.exp(0.5))
    assert ratio.stderr == pytest.approx(math.exp(0.5) * stderr)
    assert ratio.n == 12
    # A third of the 11 degrees of freedom: that neighbours are not alike is an estimate, too.
    low, high = (math.exp(0.5 + sign * stats.t.ppf(0.975, 11 / 3) * stderr) for sign in (-1, 1))
    assert ratio.interval == pytest.approx((low, high), rel=1e-9)


def test_of_fewer_than_ten_chunks_there_is_a_ratio_and_no_interval() -> None:
    ours, theirs = chunk_record([2.0, 4.0, 7.0] * 3, [2] * 9), chunk_record([1.0] * 9, [2] * 9)
    ratio = compare(ours, theirs)["ratio"]
    assert (ratio.value, ratio.interval, ratio.n) == (pytest.approx(math.exp(5 / 3)), None, 9)


@pytest.mark.parametrize("k", [10, 60])
def test_the_ratio_s_interval_is_student_s(k: int) -> None:
    """With chunks of one size the mean of k differences, whose standard error scipy knows.

    High and low ones take turns: neighbours that are alike would widen it. That they are not is an
    estimate, too, which leaves a third of the degrees of freedom.
    """
    random = np.random.default_rng(k)
    reference, difference = random.gamma(9.0, 1.0, k), np.sort(random.normal(0.2, 0.3, k))
    difference = np.column_stack((difference[: k // 2], difference[k // 2 :])).ravel()
    candidate = chunk_record(list(reference + 5 * difference), [5] * k)
    ratio = compare(candidate, chunk_record(list(reference), [5] * k))["ratio"]
    known = stats.t.interval(0.95, (k - 1) / 3, difference.mean(), stats.sem(difference))
    assert ratio.interval == pytest.approx(tuple(map(math.exp, known)), rel=1e-9)


def test_a_single_chunk_s_ratio_has_neither_spread_nor_interval() -> None:
    ratio = compare(chunk_record([3.0], [2]), chunk_record([2.0], [2]))["ratio"]
    assert (ratio.value, ratio.stderr, ratio.interval, ratio.n) == (math.exp(0.5), None, None, 1)


def test_an_interval_too_wide_for_a_float_ends_at_the_largest() -> None:
    ours, theirs = (
        chunk_record([90_000.0] + [0.0] * 11, [1] * 12),
        chunk_record([0.0] * 12, [1] * 12),
    )
    ratio = compare(ours, theirs)["ratio"]
    assert ratio.interval is not None
    assert ratio.interval[0] == 0.0
    assert ratio.interval[1] == pytest.approx(sys.float_info.max)


def test_equal_records_have_a_ratio_of_exactly_one() -> None:
    record = chunk_record([10.1, 1.7], [3, 4])
    ratio = compare(record, record)["ratio"]
    assert (ratio.value, ratio.stderr, ratio.interval) == (1.0, 0.0, (1.0, 1.0))


@pytest.mark.parametrize(
    "other", [chunk_record([1.0], [2]), make_record("perplexity"), chunk_record([1.0, 2.0], [1, 3])]
)
def test_records_of_other_chunks_have_no_ratio(other: Any) -> None:
    assert compare(chunk_record([1.0, 2.0], [1, 2]), other) == {}
    assert compare(other, chunk_record([1.0, 2.0], [1, 2])) == {}
