"""doubts: a flagged speed breaks no limit, and a flagged reference decides nothing at all."""

from __future__ import annotations

import pytest

from harness.records.record import Record
from harness.verdicts.doubts import find_doubts
from harness.verdicts.pairing import complete_record
from tests.support.limits import limit, make_suite
from tests.support.records import make_record, make_speeds

BUSY = ("other processes used 1.3 of 2 cores",)
CAPPED = ("the GPU's power was capped in 80% of the samples",)
SPEED, SPEEDUP = "throughput.decode_tokens_per_s[1]", "throughput.decode_speedup[1]"


def speeds(speed: float, reasons: tuple[str, ...] = (), precision: str = "nf4") -> Record:
    record = make_speeds(speed, status="flagged" if reasons else "ok", reasons=reasons)
    cell = record.cell.model_copy(update={"precision": precision, "id": f"m[{precision}]"})
    sure = {"bounds": (speed * 0.98, speed * 1.02)}
    values = {name: value.model_copy(update=sure) for name, value in record.values.items()}
    return record.model_copy(update={"cell": cell, "values": values})


@pytest.mark.parametrize(
    ("metric", "least", "own", "reference", "outcome"),
    [
        # 50 tokens/s where the reference has 100
        (SPEED, 90, (), (), "FAIL"),
        (SPEED, 90, BUSY, (), "INCONCLUSIVE"),
        (SPEED, 90, (), BUSY, "FAIL"),  # which has no part in it
        (SPEED, 10, BUSY, (), "PASS"),  # a free machine would be no slower
        (SPEEDUP, 0.9, (), (), "FAIL"),
        (SPEEDUP, 0.9, BUSY, (), "INCONCLUSIVE"),
        (SPEEDUP, 0.9, (), BUSY, "INCONCLUSIVE"),
        (SPEEDUP, 0.2, BUSY, (), "PASS"),
        (SPEEDUP, 0.2, (), BUSY, "INCONCLUSIVE"),  # a busy reference makes the ratio too high
        (SPEEDUP, 0.9, CAPPED, CAPPED, "FAIL"),  # both alike
        (SPEEDUP, 0.2, CAPPED, CAPPED, "PASS"),
        (SPEEDUP, 0.2, (), CAPPED, "INCONCLUSIVE"),
    ],
)
def test_a_flag_leaves_open_what_it_speaks_against(
    metric: str,
    least: float,
    own: tuple[str, ...],
    reference: tuple[str, ...],
    outcome: str,
) -> None:
    suite = make_suite(limit(metric, min=least))
    [verdict] = complete_record(suite, speeds(50.0, own), speeds(100.0, reference, "fp32")).verdicts
    assert verdict.verdict == outcome, verdict.text
    why = [*own, *(reference if metric == SPEEDUP else ())] if outcome == "INCONCLUSIVE" else []
    assert all(reason in verdict.text for reason in why)
    assert verdict.text.endswith("(s.yaml:9:5).")


def test_a_flagged_reference_flags_the_ratios_of_times_and_nothing_else() -> None:
    reference, record = speeds(100.0, BUSY, "fp32"), speeds(50.0)
    size = {"step_bytes[1]": 10}
    reference, record = (
        r.model_copy(update={"values": {**r.values, **make_record("x", values=size).values}})
        for r in (reference, record)
    )
    done = complete_record(make_suite(), record, reference)
    doubts = {name: value.doubt for name, value in done.paired.items()}
    assert doubts == {
        "decode_speedup[1]": f"the reference fp32 is flagged: {BUSY[0]}",
        "step_bytes_ratio[1]": "",
        "pays_from_batch": f"the reference fp32 is flagged: {BUSY[0]}",
    }
    assert done.validity.status == "ok"  # its own numbers are sound


def test_bytes_of_a_flagged_record_are_judged() -> None:
    record = make_record(
        "memory", "nf4", values={"peak_bytes": 9}, status="flagged", reasons=("odd",)
    )
    suite = make_suite(limit("memory.peak_bytes", max=8))
    [verdict] = complete_record(suite, record, None).verdicts
    assert verdict.verdict == "FAIL"


def test_flags_of_one_kind_on_both_sides_are_no_doubt_unless_the_machine_was_busy() -> None:
    more = ("other processes used 1.9 of 2 cores",)
    assert find_doubts(speeds(1.0, CAPPED), speeds(1.0, CAPPED)) == []
    assert find_doubts(speeds(1.0, BUSY), speeds(1.0, more)) == list(BUSY)


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("capped at 500 W in 80% of the samples", "capped at 500 W in 72% of the samples", True),
        ("capped in 2% of the samples", "capped in 9% of the samples", True),
        ("capped in 30% of the samples", "capped in 95% of the samples", False),
        ("the clock was 1,980 MHz", "the clock was 1,900 MHz", True),
        ("the clock was 1,980 MHz", "the clock was 990 MHz", False),
        ("batch 1: had not settled", "batch 8: had not settled", False),
        ("capped in 80% of the samples", "hot in 80% of the samples", False),
    ],
)
def test_flags_cancel_only_where_they_are_about_as_large(a: str, b: str, alike: bool) -> None:
    for one, other in ((a, b), (b, a)):
        assert find_doubts(speeds(1.0, (one,)), speeds(1.0, (other,))) == ([] if alike else [one])
