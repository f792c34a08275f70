"""details: a row per cell, a row per cell and batch, and no column without a number."""

from __future__ import annotations

from harness.report.details import render_details
from tests.report.test_matrix import make_suite
from tests.support.records import make_record


def test_plain_values_and_those_of_a_batch_have_tables_of_their_own() -> None:
    suite = make_suite("throughput")
    shared = {"load_s": 1.25, "matmul_flop_per_s": None}
    records = [
        make_record(
            "throughput",
            "fp32",
            values={**shared, "ttft_s[1]": 0.0125, "ttft_s[8]": 1.5, "mbu[1]": 0.5, "mbu[8]": None},
        ),
        make_record("throughput", "nf4", values={"load_s": 2.0, "ttft_s[1]": 0.02}),
    ]
    assert render_details(suite, records).splitlines() == [
        "            load",
        "throughput     s",
        "m[fp32]     1.25",
        "m[nf4]      2.00",
        "",
        "                TTFT",
        "throughput        ms   MBU",
        "m[fp32] b1     12.50  0.50",
        "m[fp32] b8  1,500.00     —",
        "m[nf4] b1      20.00     —",
    ]


def test_values_of_a_card_are_columns() -> None:
    suite = make_suite("memory")
    values = {"weights_bytes": 5e6, "largest_context[8GB]": 2048, "largest_batch[24GB]": 7}
    lines = render_details(suite, [make_record("memory", values=values)]).splitlines()
    assert [line.split() for line in lines] == [
        ["weights", "context", "batch"],
        ["memory", "MB", "on", "8GB", "on", "24GB"],
        ["m[fp32]", "5.0", "2,048", "7"],
    ]


def test_what_has_no_details_or_no_numbers_has_no_table() -> None:
    suite = make_suite("memory")
    failed = make_record("memory", values={"weights_bytes": 5e6}, status="failed")
    assert render_details(suite, [failed]) == ""
    assert render_details(suite, [make_record("memory", values={"weights_bytes": None})]) == ""
