"""A record's properties in a JUnit report."""

from __future__ import annotations

import pytest

from harness.records.record import Value, Verdict
from harness.report.junit import list_properties
from tests.support.records import make_record


def verdict(outcome: str, metric: str = "perplexity.ratio", against: str = "limit") -> Verdict:
    return Verdict(
        verdict=outcome,  # type: ignore[arg-type]
        metric=metric,
        bound="max 1",
        value=1.0,
        text="t",
        against=against,  # type: ignore[arg-type]
    )


def test_values_keep_their_numbers_and_what_is_missing_says_so() -> None:
    record = make_record(
        "perplexity",
        values={"ppl": 5.25, "tokens": 12, "stderr": None},
        paired={"ratio": Value(value=None)},
    )
    assert list_properties(record) == [
        ("perplexity.ppl", 5.25),
        ("perplexity.tokens", 12),
        ("perplexity.stderr", "unavailable"),
        ("perplexity.ratio", "unavailable"),
        ("validity", "ok"),
    ]


def test_a_verdict_is_named_after_its_metric_and_what_it_was_judged_against() -> None:
    record = make_record(
        "perplexity",
        verdicts=(
            verdict("PASS"),
            verdict("FAIL", against="threshold"),
            verdict("INCONCLUSIVE", "perplexity.ppl", "run"),
        ),
    )
    assert list_properties(record)[:3] == [
        ("verdict.perplexity.ratio.limit", "PASS"),
        ("verdict.perplexity.ratio.threshold", "FAIL"),
        ("verdict.perplexity.ppl.run", "INCONCLUSIVE"),
    ]


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        (("FAIL", "PASS"), "FAIL"),
        (("PASS", "FAIL"), "FAIL"),
        (("PASS", "INCONCLUSIVE"), "INCONCLUSIVE"),
        (("INCONCLUSIVE", "FAIL"), "FAIL"),
        (("PASS", "PASS"), "PASS"),
    ],
)
def test_of_two_limits_on_one_value_the_worse_is_kept(
    outcomes: tuple[str, ...], worst: str
) -> None:
    record = make_record("perplexity", verdicts=tuple(map(verdict, outcomes)))
    assert list_properties(record) == [
        ("verdict.perplexity.ratio.limit", worst),
        ("validity", "ok"),
    ]


def test_why_a_record_is_not_ok_follows_its_status() -> None:
    record = make_record("perplexity", status="flagged", reasons=("busy", "hot"))
    assert list_properties(record) == [
        ("validity", "flagged"),
        ("validity.reasons", "busy; hot"),
    ]
