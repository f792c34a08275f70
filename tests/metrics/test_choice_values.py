"""What follows from right and wrong items: averages, spreads, and the reference item by item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.metrics.choice_values import (
    CHOICE_VALUES,
    NORMED_VALUES,
    compare_items,
    split_subjects,
    summarise_rows,
)
from harness.records.record import Value
from harness.statistics.shares import share_ratio_interval, share_stderr
from tests.support.records import make_record


def test_micro_macro_and_per_subject_by_hand() -> None:
    """Subject a: 3 of 4, b: 0 of 1. Micro 3/5, macro (0.75 + 0)/2."""
    values = summarise_rows(CHOICE_VALUES, {"right": "11010"}, {"a": 4, "b": 1})
    assert {name: value.value for name, value in values.items()} == {
        "acc": 0.6,
        "acc_macro": 0.375,
        "acc[a]": 0.75,
        "acc[b]": 0.0,
    }
    assert values["acc"].stderr == pytest.approx((0.6 * 0.4 / 4) ** 0.5)
    assert values["acc[a]"].stderr == 0.25
    assert values["acc[b]"].stderr is None
    assert [values[n].n for n in ("acc", "acc[a]", "acc[b]")] == [5, 4, 1]


def test_a_single_subject_has_no_value_of_its_own() -> None:
    values = summarise_rows(CHOICE_VALUES, {"right": "110"}, {"only": 3})
    assert set(values) == {"acc", "acc_macro"}
    assert values["acc_macro"].value == values["acc"].value == 2 / 3


def test_unscored_items_and_subjects_without_any_scored_are_left_out() -> None:
    values = summarise_rows(CHOICE_VALUES, {"right": "1-0--"}, {"a": 3, "b": 2})
    assert (values["acc"].value, values["acc"].n) == (0.5, 2)
    assert "acc[b]" not in values
    assert values["acc_macro"].value == 0.5


def test_a_normed_accuracy_is_reported_with_the_plain_one() -> None:
    outcomes = {"right": "1100", "right_norm": "1110"}
    values = summarise_rows(NORMED_VALUES, outcomes, {"a": 2, "b": 2})
    assert (values["acc"].value, values["acc_norm"].value) == (0.5, 0.75)
    assert (values["acc[b]"].value, values["acc_norm[b]"].value) == (0.0, 0.5)
    assert values["acc_macro"].value == 0.5


def pair(candidate: str, reference: str, **items: Any) -> dict[str, Value]:
    """Paired values; ``items`` are pairs of further rows: candidate's, reference's."""
    rows = {"right": (candidate, reference), **items}
    records = (make_record("mmlu", items={k: v[i] for k, v in rows.items()}) for i in (0, 1))
    return compare_items(NORMED_VALUES, *records)


def test_drop_flips_and_retention_by_hand() -> None:
    """b = 3, c = 1, n = 8: D = 0.25, f = 0.5, SE = sqrt((0.5 - 0.0625)/8); 3 of 5 kept."""
    found = pair("00011100", "11101100")
    assert found["accuracy_drop"].value == 0.25
    assert found["flip_rate"].value == 0.5
    assert found["flip_rate"].stderr == pytest.approx((0.25 / 8) ** 0.5)
    assert found["accuracy_drop"].stderr == pytest.approx((0.4375 / 8) ** 0.5)
    assert found["accuracy_drop"].n == found["flip_rate"].n == 8
    assert (found["right_to_wrong"].value, found["wrong_to_right"].value) == (3, 1)
    assert found["retention"].value == 3 / 5
    low, high = found["retention"].interval or (0, 0)
    assert low < 3 / 5 < high
    assert pair("11101100", "00011100")["accuracy_drop"].value == -0.25


def test_the_interval_of_a_retention_equals_a_published_example() -> None:
    """statpsych's ci.ratio.prop.ps(.05, 12, 4, 26, 6): 3.2, 1.766544 to 5.796628."""
    assert share_ratio_interval(6, 26, 4) == pytest.approx((1.766544, 5.796628), abs=1e-6)


def test_the_interval_of_a_retention_covers_as_often_as_it_says() -> None:
    """A true ratio of 0.9 from correlated pairs: within 95 % of 2,000 intervals, give or take 2."""
    random = np.random.default_rng(1)
    shares = [0.70, 0.02, 0.10, 0.18]  # both, candidate only, reference only, neither
    covered = []
    for both, ours, theirs, _ in random.multinomial(400, shares, size=2000):
        low, high = share_ratio_interval(both, ours, theirs)  # type: ignore[misc]
        covered.append(low <= 0.72 / 0.80 <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_no_flip_seen_leaves_room_for_some() -> None:
    """The rule of three: of 300 items without a flip, one in a hundred may yet flip."""
    found = pair("1" * 300, "1" * 300)
    assert found["flip_rate"].value == 0.0
    assert found["flip_rate"].interval == pytest.approx((0.0, 0.01), abs=1e-4)
    low, high = found["retention"].interval or (0, 0)
    assert 0.98 < low < 1 < high < 1.02
    assert found["retention"].value == 1.0


def test_nothing_right_in_the_reference_has_no_retention() -> None:
    found = pair("0100", "0000")
    assert (found["retention"].value, found["retention"].interval) == (None, None)
    assert found["accuracy_drop"].value == -0.25


def test_the_standard_error_of_the_drop_is_that_of_the_paired_differences() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.integers(0, 2, (2, 500))
    found = pair("".join(map(str, ours)), "".join(map(str, theirs)))["accuracy_drop"]
    assert found.value == pytest.approx((theirs - ours).mean())
    assert found.stderr == pytest.approx((theirs - ours).std() / 500**0.5)


def test_equal_answers_have_no_drop_and_no_flip() -> None:
    found = pair("0110", "0110")
    assert found["accuracy_drop"].value == 0.0
    z = 1.959964  # Tango's interval without a flip: z²/(n + z²); four items say little
    assert found["accuracy_drop"].interval == pytest.approx(
        (-(z**2) / (4 + z**2), z**2 / (4 + z**2)), abs=1e-6
    )
    assert found["accuracy_drop"].stderr is None
    assert found["flip_rate"].value == 0.0


def test_every_answer_lost_is_a_drop_of_one() -> None:
    assert pair("000", "111")["accuracy_drop"].value == 1.0
    assert pair("000", "111")["accuracy_drop"].stderr == 0.0
    assert pair("000", "111")["retention"].value == 0.0


def test_one_wrong_answer_for_another_is_a_change_and_no_flip() -> None:
    found = pair("100", "100", chosen=("ABC", "ABD"))
    assert found["flip_rate"].value == 0.0
    assert found["answer_change_rate"].value == 1 / 3


def test_subjects_are_compared_one_by_one() -> None:
    found = pair("1001", "1101", subjects=({"a": 2, "b": 2}, {"a": 2, "b": 2}))
    assert found["accuracy_drop[a]"].value == 0.5
    assert found["accuracy_drop[b]"].value == 0.0
    assert "accuracy_drop[a]" not in pair("10", "11", subjects=({"a": 2}, {"a": 2}))


def test_the_normed_answers_are_compared_too() -> None:
    found = pair("11", "11", right_norm=("01", "11"))
    assert found["accuracy_drop"].value == 0.0
    assert found["accuracy_norm_drop"].value == 0.5
    assert found["retention_norm"].value == 0.5


def test_items_scored_on_one_side_only_are_no_pairs() -> None:
    found = pair("1-10", "110-")
    assert (found["accuracy_drop"].value, found["flip_rate"].value) == (-0.5, 0.5)
    assert found["flip_rate"].n == 2
    assert pair("--", "10") == {}
    assert pair("", "") == {}
    assert pair("10", "100") == {}


def test_a_row_is_cut_by_subject() -> None:
    assert split_subjects("11-00", {"a": 2, "b": 1, "c": 2}) == {"a": "11", "b": "-", "c": "00"}


def test_the_standard_error_of_a_share_by_hand() -> None:
    """p = 3/4, n = 4: sqrt(0.1875 / 3) = 0.25."""
    assert share_stderr(3, 4) == 0.25
    assert share_stderr(2, 2) == 0.0
    assert share_stderr(1, 1) is None
    assert share_stderr(0, 0) is None
