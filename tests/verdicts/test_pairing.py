"""Records compared with the reference: which one, and every reason not to compare."""

from __future__ import annotations

import math

import pytest

from harness.records.record import Record
from harness.verdicts.pairing import complete_record, complete_records
from tests.support.limits import (
    CANDIDATE,
    REFERENCE,
    judge,
    limit,
    make_suite,
    perplexity,
)
from tests.support.records import make_record


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (None, "the reference fp32 was not measured"),
        (
            make_record("perplexity", status="failed", reasons=("it died",)),
            "the reference fp32 has no number (it died)",
        ),
        (
            make_record("perplexity", status="skipped", reasons=("no network",)),
            "the reference fp32 has no number (no network)",
        ),
        (
            make_record("perplexity", status="invalid", reasons=("2 NaN", "throttled")),
            "the reference fp32 has no number (2 NaN; throttled)",
        ),
        (
            perplexity("fp32", 1.0, protocol={"context": 16, "text_sha256": "y"}),
            "incomparable with the reference fp32: context, text_sha256 differ",
        ),
        (
            perplexity("fp32", 1.0, protocol={"context": 8, "text_sha256": "x", "stride": 2}),
            "incomparable with the reference fp32: stride differ",
        ),
        (perplexity("fp32", 1.0, items={}), "ratio is unavailable"),
    ],
)
def test_without_a_sound_reference_nothing_is_concluded_and_the_reason_is_given(
    reference: Record | None, reason: str
) -> None:
    paired, own = judge(
        CANDIDATE, reference, limit("perplexity.ratio", max=9.0), limit("perplexity.nll", max=9.0)
    )
    assert paired.verdict == "INCONCLUSIVE"
    assert paired.value is None
    assert paired.text == (f"m[nf4] perplexity.ratio cannot be judged against max 9: {reason}")
    assert own.verdict == "PASS"  # needs no reference


def test_a_flagged_reference_still_counts() -> None:
    flagged = perplexity("fp32", 1.0, status="flagged", reasons=("slow",))
    assert judge(CANDIDATE, flagged, limit("perplexity.ratio", max=2.0))[0].verdict == "PASS"


def test_a_suite_without_reference_concludes_nothing_about_it() -> None:
    suite = make_suite(limit("perplexity.ratio", max=9.0), reference=None)
    [verdict] = complete_record(suite, CANDIDATE, None).verdicts
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.text.endswith("the suite names no reference")


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_record_without_numbers_has_no_verdict(status: str) -> None:
    record = perplexity("nf4", 1.0, status=status, reasons=("why",))
    done = complete_record(make_suite(limit("perplexity.nll", max=9.0)), record, REFERENCE)
    assert (done.verdicts, done.paired) == ((), {})


def test_the_reference_has_no_paired_values_of_its_own() -> None:
    done = complete_record(make_suite(), REFERENCE, REFERENCE)
    assert done.paired == {}


def test_every_record_is_completed_with_the_reference_of_its_own_model() -> None:
    records = [
        perplexity("nf4", 1.5),
        perplexity("nf4", 1.5, model="other"),
        perplexity("fp32", 1.0),
        perplexity("fp32", 1.25, model="other"),
    ]
    done = complete_records(make_suite(), records)
    assert [r.cell.id for r in done] == [r.cell.id for r in records]
    assert done[0].paired["ratio"].value == pytest.approx(math.exp(0.5))
    assert done[1].paired["ratio"].value == pytest.approx(math.exp(0.25))
    assert complete_records(make_suite(), done) == done  # judging again changes nothing
