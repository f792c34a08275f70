"""Speeds and the reference's: ratios, the batch size from which on it pays, remarks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.metrics.speed_ratios import compare, explain_shares, pays_from, remarks
from harness.records.record import Record, Validity, Value
from tests.support.records import make_record, make_run
from tests.support.summaries import finish, make_suite, show_section, show_tables


def speeds(precision: str = "fp32", size: float | None = 100, **decode: float) -> Record:
    """Decode tokens/s by batch size (``b1``) or batch and prompt (``b1x64``)."""
    values: dict[str, Any] = {}
    for workload, speed in decode.items():
        at = f"[{workload[1:]}]"
        values |= {f"decode_tokens_per_s{at}": speed, f"step_bytes{at}": size}
    return make_record("throughput", precision, values=values)


def compared(candidate: Record, reference: Record) -> Record:
    return candidate.model_copy(update={"paired": compare(candidate, reference)})


def test_ratios_are_given_for_the_batch_sizes_of_both() -> None:
    candidate = speeds(size=25, b1=30.0, b8=80.0)
    reference = make_record(
        "throughput",
        values={
            "decode_tokens_per_s[1]": 20.0,
            "prefill_tokens_per_s[1]": 5.0,
            "step_bytes[1]": 100,
            "tpot_s[1]": 0.1,
        },
    )
    assert {name: value.value for name, value in compare(candidate, reference).items()} == {
        "decode_speedup[1]": 1.5,
        "step_bytes_ratio[1]": 0.25,
        "pays_from_batch": 1,
    }


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ({1: 1.2, 8: 1.1}, 1),
        ({1: 0.5, 8: 1.0, 32: 2.0}, 8),  # no slower is enough
        ({1: 1.5, 8: 0.9, 32: 2.0}, 32),  # not 1: at 8 it is slower again
        ({32: 2.0, 1: 0.5, 8: 1.5}, 8),  # whatever their order
        ({1: 2.0, 8: 0.999}, None),
        ({1: 0.5}, None),
        ({}, None),
    ],
)
def test_from_which_batch_size_on_it_pays(speedups: dict[int, float], expected: int | None) -> None:
    values = {batch: Value(value=speedup) for batch, speedup in speedups.items()}
    assert pays_from(values) == expected


def test_each_prompt_length_pays_from_its_own_batch_size() -> None:
    candidate = speeds(**{"b1x64": 5.0, "b8x64": 9.0, "b1x512": 5.0, "b8x512": 9.0})
    reference = speeds(**{"b1x64": 9.0, "b8x64": 8.0, "b1x512": 9.0, "b8x512": 10.0})
    found = compare(candidate, reference)
    assert found["pays_from_batch[64]"].value == 8
    assert found["pays_from_batch[512]"].value is None
    assert "pays_from_batch" not in found


def test_smaller_but_slower_is_reported_with_the_batch_size_from_which_it_pays() -> None:
    reference = speeds(b1=20.0, b8=40.0)
    slow_alone = compared(speeds("nf4", 25, b1=10.0, b8=50.0), reference)
    assert remarks(slow_alone) == [
        "smaller than the reference but slower at batch 1 (×0.50); it pays from batch 8"
    ]
    slow_always = compared(speeds("nf4", 25, b1=10.0, b8=30.0), reference)
    assert remarks(slow_always) == [
        "smaller than the reference but slower at batch 1 (×0.50), 8 (×0.75); "
        "it pays at no measured batch size"
    ]


def test_a_sentence_drawn_from_flagged_numbers_says_so() -> None:
    record = compared(speeds("nf4", 25, b1=10.0, b8=50.0), speeds(b1=20.0, b8=40.0))
    doubtful = {
        name: value.model_copy(update={"doubt": "the reference fp32 is flagged: busy"})
        for name, value in record.paired.items()
    }
    own = Validity(status="flagged", reasons=("a power cap",))
    assert "in doubt" not in remarks(record)[0]
    for doubt in ({"paired": doubtful}, {"validity": own}):
        [sentence] = remarks(record.model_copy(update=doubt))
        assert sentence.endswith("; in doubt: a number that it rests on is flagged")


def test_slower_is_reported_only_where_processes_agree_that_it_is() -> None:
    def several(precision: str, step_bytes: int, speed: float, spread: float) -> Record:
        values = {
            "decode_tokens_per_s[1]": Value(value=speed, stderr=speed * spread, n=3),
            "step_bytes[1]": step_bytes,
        }
        return make_record("throughput", precision, values=values)

    def find(spread: float) -> list[str]:
        ours, theirs = several("nf4", 25, 90.0, spread), several("fp32", 100, 100.0, spread)
        record = ours.model_copy(update={"paired": compare(ours, theirs)})
        low, high = record.paired["decode_speedup[1]"].interval or (0, 0)
        assert low < 0.9 < high
        return remarks(record)

    assert "slower at batch 1 (×0.90)" in find(0.005)[0]
    assert find(0.2) == []


@pytest.mark.parametrize(
    "candidate",
    [
        speeds("nf4", 25, b1=20.0, b8=41.0),  # smaller and no slower
        speeds("int8", 100, b1=10.0, b8=30.0),  # slower, but no smaller
        speeds("int8", 120, b1=10.0, b8=30.0),
        speeds("moe", None, b1=10.0, b8=30.0),  # the bytes are unknown
    ],
)
def test_without_a_paradox_nothing_is_reported(candidate: Record) -> None:
    assert remarks(compared(candidate, speeds(b1=20.0, b8=40.0))) == []


@pytest.mark.parametrize(
    ("speedup", "floor", "reported"),
    [(0.981, None, False), (0.979, None, True), (0.96, 0.05, False), (0.94, 0.05, True)],
)
def test_slower_within_two_percent_or_the_noise_is_not_reported(
    speedup: float, floor: float | None, reported: bool
) -> None:
    record = compared(speeds("nf4", 25, b1=20.0 * speedup), speeds(b1=20.0))
    value = record.paired["decode_speedup[1]"].model_copy(update={"floor": floor})
    record = record.model_copy(update={"paired": {**record.paired, "decode_speedup[1]": value}})
    assert bool(remarks(record)) is reported


def test_each_prompt_length_is_reported() -> None:
    reference = speeds(**{"b1x64": 20.0, "b1x512": 20.0})
    record = compared(speeds("nf4", 25, **{"b1x64": 30.0, "b1x512": 5.0}), reference)
    assert remarks(record) == [
        "smaller than the reference but slower at batch 1 (×0.25) after 512 tokens; "
        "it pays at no measured batch size"
    ]


SHARES = {"mbu[8]": 1.25, "prefill_flop_utilisation[8]": 0.7, "step_bytes[8]": 5_000_000}


@pytest.mark.parametrize(
    ("numbers", "cache_bytes", "int8", "mistakes", "explained"),
    [
        (SHARES, 4_000_000, False, ["MBU 1.25 at batch 8"], []),
        (SHARES, None, False, ["MBU 1.25 at batch 8"], []),
        (SHARES, 5_000_000, False, [], ["all fits into the last-level cache"]),
        ({**SHARES, "mbu[8]": 1.0}, None, False, [], []),
        ({**SHARES, "mbu[8]": None}, None, False, [], []),
        ({"prefill_flop_utilisation[1x64]": 1.5}, None, False, ["1.50 at batch 1x64"], []),
        ({"prefill_flop_utilisation[1]": 1.5}, None, True, [], ["int8 products"]),
    ],
)
def test_a_share_above_one_is_a_mistake_unless_it_is_explained(
    numbers: dict[str, float | None],
    cache_bytes: int | None,
    int8: bool,
    mistakes: list[str],
    explained: list[str],
) -> None:
    values = make_record("throughput", values=numbers).values
    products = "int8" if int8 else "bfloat16"
    method = {"last_level_cache_bytes": cache_bytes, "products": products}
    for found, expected in zip(explain_shares(values, method), (mistakes, explained)):
        assert len(found) == len(expected)
        assert all(part in text for part, text in zip(expected, found))


def test_an_explained_share_is_a_remark() -> None:
    record = make_record(
        "throughput",
        values={"mbu[1]": 1.5, "step_bytes[1]": 1000},
        protocol={"method": {"last_level_cache_bytes": 2000}},
    )
    assert remarks(record) == ["MBU above 1 at batch 1: all fits into the last-level cache"]


def test_remarks_are_among_the_notes_with_their_cells() -> None:
    suite = make_suite("throughput")
    records = [speeds("fp32", b1=20.0), speeds("int8", 50, b1=10.0), speeds("nf4", 25, b1=30.0)]
    assert show_section(finish(suite, records), "Notes") == [
        "smaller than the reference but slower at batch 1 (×0.50); "
        "it pays at no measured batch size (throughput of m[int8])"
    ]
    failed = make_record("throughput", "nf4", status="failed", reasons=("gone",))
    assert show_section(make_run(failed), "Notes") == []


def test_both_kinds_of_names_are_readable_in_the_matrix() -> None:
    suite = make_suite("throughput")
    records = [speeds(p, **{"b1x64": 20.0, "b8x512": 30.0}) for p in ("fp32", "nf4")]
    heading = show_tables(finish(suite, records))[0][:3]
    titles = ["batch 1×64", "batch 8×512"] * 2
    assert [re.split(r"  +", line.strip()) for line in heading] == [
        ["decode", "decode", "decode", "decode"],
        ["tok/s", "tok/s", "×ref", "×ref"],
        ["m", "verdicts", *titles],
    ]
