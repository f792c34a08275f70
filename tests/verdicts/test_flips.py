"""flips: which items were lost, in which order, with ties kept separate."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import InputError
from harness.records.record import Record
from harness.report.ledger import dump_ledger, open_ledger, show_ledger
from harness.verdicts.flips import Change, Counts, Flip, Ledger, list_flips
from tests.support.flipped import (
    choice_record,
    gsm8k_record,
    lambada_record,
    normed_pair,
    nothing,
)
from tests.support.records import make_record


def ledger_of(a: Record, b: Record) -> Ledger:
    found = list_flips(a, b)
    assert found is not None
    return found


def test_harmful_flips_are_those_right_in_a_and_wrong_in_b() -> None:
    a = choice_record("fp32", "AAAAA-", "AABAAA")
    b = choice_record("nf4", "BABB-A", "AABAAA")
    ledger = ledger_of(a, b)
    assert (ledger.a, ledger.b, ledger.measurement) == ("m[fp32]", "m[nf4]", "mmlu")
    assert [flip.number for flip in ledger.harmful] == [0, 3]
    assert ledger.harmful[0] == Flip(0, "s", (Change("acc", "A", "B"),))
    # Items that either side left out are in no count: 4 and 5 here.
    assert ledger.counts == (Counts("acc", 4, 2, 1, 0, 0, changed=3),)
    assert ledger_of(b, a).counts == (Counts("acc", 4, 1, 2, 0, 0, changed=3),)


def test_margins_and_shift_are_differences_of_log_likelihoods() -> None:
    a = choice_record("fp32", "A", "A", log_likelihoods=[[-1.0, -4.0, -2.5]])
    b = choice_record("nf4", "C", "A", log_likelihoods=[[-3.0, -9.0, -2.25]])
    (flip,) = ledger_of(a, b).harmful
    # A: -1 against -2.5; B: -2.25 against -3; the option that neither chose is in neither.
    assert flip.changes == (Change("acc", "A", "C", margin_a=1.5, margin_b=0.75),)
    assert flip.shift == 2.25
    assert flip.log_likelihoods_a == (-1.0, -4.0, -2.5)
    assert flip.log_likelihoods_b == (-3.0, -9.0, -2.25)


def test_the_largest_shift_comes_first_and_equals_stay_in_order() -> None:
    scores = [[-1, -2], [-1, -5], [-1, -2], [-1, -9]]
    a = choice_record("fp32", "AAAA", "AAAA", log_likelihoods=scores)
    b = choice_record("nf4", "BBBB", "AAAA", log_likelihoods=[[-2, -1]] * 4)
    assert [flip.number for flip in ledger_of(a, b).harmful] == [3, 1, 0, 2]
    assert [flip.shift for flip in ledger_of(a, b).harmful] == [9, 5, 2, 2]


def test_ties_of_either_side_are_listed_and_counted_separately() -> None:
    scores = {"log_likelihoods": [[-1.0, -2.0]] * 6}
    a = choice_record("fp32", "AAABBB", "AAAAAA", tied="100100", **scores)
    b = choice_record("nf4", "BBBAAA", "AAAAAA", tied="010000", **scores)
    ledger = ledger_of(a, b)
    assert [flip.number for flip in ledger.harmful] == [2]
    assert [flip.number for flip in ledger.tied] == [0, 1]
    assert ledger.counts == (Counts("acc", 6, 1, 2, 2, 1, changed=6),)


def test_acc_norm_has_counts_of_its_own() -> None:
    ledger = ledger_of(*normed_pair())
    assert [(c.metric, c.harmful) for c in ledger.counts] == [("acc", 2), ("acc_norm", 2)]
    found = {f.number: [(c.metric, c.b) for c in f.changes] for f in ledger.harmful}
    assert found == {
        0: [("acc", "B")],
        1: [("acc_norm", "C")],
        2: [("acc", "B"), ("acc_norm", "C")],
    }
    # C never is the likelier in nats: acc_norm chose it for its length.
    (normed,) = next(f for f in ledger.harmful if f.number == 1).changes
    assert (normed.margin_a, normed.margin_b) == (2, -2)


def test_generated_answers_are_shown_as_they_are_in_the_order_of_the_data() -> None:
    a = gsm8k_record("fp32", ["7", "8", "9"], "111")
    b = gsm8k_record("nf4", ["70", "8", None], "010")
    ledger = ledger_of(a, b)
    assert ledger.counts == (
        Counts("exact_match", 3, 2, 0, 0, 0, changed=2),
        Counts("exact_match_flexible", 3, 0, 0, 0, 0, changed=0),
    )
    assert ledger.harmful == (
        Flip(0, None, (Change("exact_match", "7", "70"),), (), (), "fp32 says 7", "nf4 says 70"),
        Flip(2, None, (Change("exact_match", "9", None),), (), (), "fp32 says 9", "nf4 says None"),
    )


def test_one_word_falls_against_itself() -> None:
    a = lambada_record("fp32", "111", [-0.5, -0.25, -1.0])
    b = lambada_record("nf4", "010", [-1.5, -0.5, -4.0])
    flips = ledger_of(a, b).harmful
    assert [(f.number, f.shift, f.log_likelihoods_b) for f in flips] == [
        (2, 3.0, (-4.0,)),
        (0, 1.0, (-1.5,)),
    ]
    assert flips[0].changes == (Change("acc", None, None),)


def test_a_measurement_without_right_and_wrong_has_no_ledger() -> None:
    record = make_record("perplexity", items={"chunk_nll": [1.0]})
    assert list_flips(record, record) is None
    assert open_ledger(record, record, nothing, nothing) is None


BASE = choice_record("fp32", "AAA", "AAA", log_likelihoods=[[-1.0, -2.0]] * 3, tied="000")


def with_items(**items: Any) -> Record:
    return BASE.model_copy(update={"items": {**BASE.items, **items}})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (BASE.model_copy(update={"measurement": "arc_easy"}), "two measurements have no items"),
        (BASE.model_copy(update={"protocol": {"items_sha256": "other"}}), "asked different items"),
        (BASE.model_copy(update={"protocol": {}}), "different items: items_sha256 same and None"),
        (with_items(subjects={"t": 3}), "the subjects differ"),
        (with_items(right="1111"), "items.right holds 4 items, 3 items were expected"),
        (with_items(chosen="AA"), "items.chosen holds 2 items, 3 items were expected"),
        (with_items(tied=None), "items.tied holds None, 3 items were expected"),
        (with_items(right="000", chosen="BBZ"), "item 2: options A and Z were chosen of 2 and 2"),
        (
            with_items(right="000", chosen="BBB", log_likelihoods=[[-1, "x"]] * 3),
            "is no log-likelihood",
        ),
        (
            make_record("mmlu", "nf4", status="failed", reasons=("out of memory",)),
            r"m\[nf4\] mmlu has no items to compare: failed, out of memory",
        ),
    ],
)
def test_items_that_do_not_match_are_refused_and_a_report_says_why(
    other: Record, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        list_flips(BASE, other)
    page = open_ledger(BASE, other, nothing, nothing)
    assert page is not None
    title = show_ledger(page, 3).title
    assert title == f"No ledger of flips: {refusal.value}"
    assert dump_ledger(page, 3) == {"unavailable": str(refusal.value)}
