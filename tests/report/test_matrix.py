"""The summary in a terminal: a row per cell, tables of -v, and what a reader must know."""

from __future__ import annotations

from typing import Any

import pytest

from harness.records.record import Record, Validity, Verdict
from harness.records.run_file import Run
from harness.suite.models import Limit, Suite
from tests.support.records import make_record, make_run
from tests.support.summaries import (
    PRECISIONS,
    RUN_FILE,
    finish,
    make_suite,
    show,
    show_section,
    show_tables,
)


def limit(metric: str, maximum: float) -> Limit:
    return Limit(precision=("int8", "nf4"), model=("m",), metric=metric, max=maximum)


def footprint(precision: str, size: int) -> Record:
    values = {"total_bytes": size, "bits_per_weight": 8 * size / 250_000}
    return make_record("footprint", precision, values=values)


def speed(precision: str, **decode: float) -> Record:
    values: dict[str, Any] = {}
    for batch, value in decode.items():
        values |= {f"prefill_tokens_per_s[{batch[1:]}]": 12345.6}
        values |= {f"decode_tokens_per_s[{batch[1:]}]": value}
    return make_record("throughput", precision, values=values)


SIZES = [footprint("fp32", 1_000_000), footprint("int8", 300_000), footprint("nf4", 200_000)]


def matrix(suite: Suite, records: list[Record], width: int = 120) -> list[str]:
    """The lines of a summary that has a single table."""
    [lines] = show_tables(finish(suite, records), width)
    return lines


def test_a_row_per_cell_with_the_reference_marked() -> None:
    suite = make_suite("footprint", limits=(limit("footprint.size_ratio", 0.25),))
    heading, *rows = matrix(suite, SIZES)
    assert heading.split("  ")[0] == "m"
    assert heading.split() == ["m", "verdicts", "weights", "MB", "×ref", "bits/w"]
    assert [row.split() for row in rows] == [
        ["fp32", "reference", "1.00", "ref", "32.00"],
        ["int8", "FAIL", "0/1", "0.30", "0.300", "9.60"],
        ["nf4", "PASS", "1/1", "0.20", "0.200", "6.40"],
    ]
    ends = {len(row) for row in rows}
    assert len(ends) == 1, "numbers are aligned to the right"


def test_rows_of_several_models_are_named_in_full() -> None:
    records = [make_record("footprint", model=model, values={"total_bytes": 1}) for model in "ab"]
    heading, *rows = show_tables(make_run(*records))[0]
    assert heading.split()[0] == "cell"
    assert [row.split()[0] for row in rows] == ["a[fp32]", "b[fp32]"]


def test_a_ratio_to_a_flagged_reference_is_marked_and_the_speed_itself_is_not() -> None:
    busy = Validity(status="flagged", reasons=("other processes used 1.3 of 2 cores",))
    reference = speed("fp32", b1=10.0).model_copy(update={"validity": busy})
    *_, fp32, nf4 = matrix(make_suite("throughput"), [reference, speed("nf4", b1=5.0)])
    assert fp32.split()[-3:] == ["12,346*", "10.0*", "ref"]
    assert nf4.split()[-3:] == ["12,346", "5.0", "0.50*"]


def test_it_begins_with_the_answer_counts_and_origin_and_ends_with_the_run_file() -> None:
    suite = make_suite("footprint", limits=(limit("footprint.size_ratio", 0.25),))
    lines = show(finish(suite, SIZES)).split("\n")
    assert lines[:7] == [
        "m: nf4 is the smallest that holds all its limits.",
        "nf4: 0.20 MB weights (0.20 × fp32's)",
        "int8 breaks footprint.size_ratio",
        "",
        "verdicts: 1 FAIL, 1 PASS; 3 measurements",
        "cpu (An_Intel_CPU), torch 2.13.0+cpu; reference fp32; commit abcdef1234",
        "×ref: divided by the value of fp32; ±: one standard error",
    ]
    assert lines[-1] == f"run file: {RUN_FILE}"


def test_a_gpu_that_was_there_and_not_used_is_named() -> None:
    environment = {"torch": {"cuda_unavailable": "the NVIDIA driver is too old"}}
    lines = show(finish(make_suite("footprint"), SIZES, environment=environment)).split("\n")
    assert "no GPU was used: the NVIDIA driver is too old" in lines


def test_measurements_keep_the_suite_s_order_and_an_older_file_that_of_its_records() -> None:
    records = [speed("nf4", b1=15.0), SIZES[2]]
    heading = matrix(make_suite("footprint", "throughput"), records)[2]
    assert heading.index("weights") < heading.index("batch")
    [lines] = show_tables(make_run(*records))
    assert lines[2].index("batch") < lines[2].index("weights")


def test_batch_sizes_have_columns_of_their_own() -> None:
    records = [speed("fp32", b1=10.0, b8=40.0), speed("nf4", b1=15.0, b8=30.0)]
    lines = matrix(make_suite("throughput"), records)
    assert lines[1].split() == ["tok/s"] * 4 + ["×ref"] * 2
    assert lines[2].split() == ["m", "verdicts", *["batch", "1", "batch", "8"] * 3]
    assert lines[-1].split() == ["nf4", "12,346", "12,346", "15.0", "30.0", "1.50", "0.75"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_does_not_fit_goes_into_further_tables(width: int) -> None:
    suite = make_suite("footprint", "throughput", limits=(limit("footprint.size_ratio", 1.0),))
    records = [*SIZES, *(speed(p, b1=10.0, b8=40.0) for p in PRECISIONS)]
    tables = show_tables(finish(suite, records), width)
    assert len(tables) > 1
    for table in tables:
        assert all(len(line) <= width for line in table)
        assert [line.split()[0] for line in table[-3:]] == ["fp32", "int8", "nf4"]
    drawn = "\n".join("\n".join(table) for table in tables)
    assert "…" not in drawn
    assert ["verdicts" in table[0] + table[1] for table in tables] == [True] + [False] * (
        len(tables) - 1
    )
    assert drawn.split().count("12,346") == 6
    assert len(show_tables(finish(suite, records), 200)) == 1


@pytest.mark.parametrize("status", ["failed", "invalid", "skipped"])
def test_a_cell_without_numbers_says_why_in_their_place(status: str) -> None:
    broken = make_record("footprint", "nf4", status=status, reasons=("why",))
    *_, row = matrix(make_suite("footprint"), [*SIZES[:2], broken])
    verdict = [] if status == "skipped" else [status.upper()]
    assert row.split() == ["nf4", *verdict, status, status, status]


def test_a_measurement_that_a_cell_lacks_is_left_blank() -> None:
    suite = make_suite("footprint", "throughput")
    lines = matrix(suite, [*SIZES, speed("nf4", b1=15.0)])
    assert lines[-1].split() == ["nf4", "0.20", "0.200", "6.40", "12,346", "15.0"]
    assert lines[-2].split() == ["int8", "0.30", "0.300", "9.60"]


def test_without_its_reference_a_ratio_is_a_dash() -> None:
    lines = matrix(make_suite("footprint"), [SIZES[0], make_record("footprint", "int8"), SIZES[2]])
    assert lines[-2].split() == ["int8", "—", "—", "—"]


def with_verdicts(*outcomes: str) -> Run:
    verdicts = tuple(
        Verdict(verdict=o, metric="x", bound="max 1", value=None, text=f"text {o}")  # type: ignore[arg-type]
        for o in outcomes
    )
    run = finish(make_suite("footprint"), SIZES[2:])
    record = run.records[0].model_copy(update={"verdicts": verdicts})
    return run.model_copy(update={"records": (record,)})


@pytest.mark.parametrize(
    ("outcomes", "shown"),
    [
        (("PASS", "FAIL", "INCONCLUSIVE"), "FAIL 1/3"),
        (("PASS", "PASS", "INCONCLUSIVE"), "INCONCLUSIVE 2/3"),
        (("PASS", "PASS"), "PASS 2/2"),
    ],
)
def test_the_worst_verdict_is_shown_with_how_many_pass(
    outcomes: tuple[str, ...], shown: str
) -> None:
    run = with_verdicts(*outcomes)
    assert show_tables(run)[0][1].startswith(f"nf4  {shown}  ")
    assert show_section(run, "Failed") == ["text FAIL"] * ("FAIL" in outcomes)
    assert show_section(run, "Undecided") == ["text INCONCLUSIVE"] * ("INCONCLUSIVE" in outcomes)


def test_colour_is_used_only_where_asked_for() -> None:
    run = finish(make_suite("footprint"), SIZES)
    assert "\x1b[" not in show(run)
    assert "\x1b[" in show(run, colour=True)


def test_nothing_in_a_record_acts_on_the_terminal() -> None:
    records = [
        make_record("footprint", "\x1b[2J\u202e", values={"total_bytes": 1}),
        make_record("memory", status="failed", reasons=("first\n::error::owned\x07",)),
    ]
    text = show(make_run(*records))
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert r"\x1b[2J\u202e" in text
    assert not any(line.startswith("::") for line in text.split("\n"))


def test_notes_say_flags_and_skips_once_with_their_places() -> None:
    records = [
        *(make_record("memory", p, status="flagged", reasons=("no peak",)) for p in PRECISIONS),
        make_record("memory", "fp4", status="flagged", reasons=("no peak", "slow")),
        make_record("mmlu", "nf4", status="skipped", reasons=("no network",)),
        make_record("mmlu", "int8", status="failed", reasons=("listed as failed",)),
    ]
    run = make_run(*records, remarks=("interrupted: 6 of 7 measurements made",))
    assert show_section(run, "Notes") == [
        "interrupted: 6 of 7 measurements made",
        "* flagged: no peak (memory of m[fp32], m[int8], m[nf4] and 1 more)",
        "* flagged: slow (memory of m[fp4])",
        "skipped: no network (mmlu of m[nf4])",
    ]
    assert show_section(run, "Failed") == ["m[int8] mmlu failed: listed as failed"]
    assert show_section(make_run(*SIZES), "Notes") == []


def test_notes_that_differ_in_numbers_only_are_said_once() -> None:
    reasons = {"fp32": ("used 1.5 of 2 cores",), "nf4": ("batch 8: slow", "used 1.2 of 2 cores")}
    records = [make_record("memory", p, status="flagged", reasons=r) for p, r in reasons.items()]
    records.append(make_record("mmlu", status="flagged", reasons=("batch 16: slow",)))
    assert show_section(make_run(*records), "Notes") == [
        "* flagged: used 1.2 to 1.5 of 2 cores (memory of m[fp32], m[nf4])",
        "* flagged: batch 8, 16: slow (memory, mmlu of m[nf4], m[fp32])",
    ]


def test_a_flagged_number_is_marked() -> None:
    fine = make_record("footprint", "fp32", values={"total_bytes": 4_000_000})
    odd = make_record("footprint", "nf4", values={"total_bytes": 1_000_000}, status="flagged")
    text = show(make_run(fine, odd))
    assert "4.00\n" in text
    assert "1.00*" in text


# The tables of -v


def test_details_have_a_table_per_cell_and_one_per_cell_and_batch_size() -> None:
    shared = {"load_s": 1.25, "matmul_flop_per_s": None}
    timed = {"ttft_s[1]": 0.0125, "ttft_s[8]": 1.5, "mbu[1]": 0.5, "mbu[8]": None}
    records = [
        make_record("throughput", "fp32", values={**shared, **timed}),
        make_record("throughput", "nf4", values={"load_s": 2.0, "ttft_s[1]": 0.02}),
    ]
    _, cells, batches = show_tables(make_run(*records), details=True)
    assert cells == [
        "            load",
        "throughput     s",
        "fp32        1.25",
        "nf4         2.00",
    ]
    assert batches == [
        "                            TTFT",
        "throughput  batch size        ms   MBU",
        "fp32                 1     12.50  0.50",
        "fp32                 8  1,500.00     —",
        "nf4                  1     20.00     —",
    ]


def test_a_value_of_a_named_card_is_a_column_of_the_details() -> None:
    values = {"weights_bytes": 5e6, "largest_context[8GB]": 2048, "largest_batch[24GB]": 7}
    _, lines = show_tables(make_run(make_record("memory", values=values)), details=True)
    assert [line.split() for line in lines] == [
        ["weights", "context", "batch"],
        ["memory", "MB", "on", "8GB", "on", "24GB"],
        ["fp32", "5.0", "2,048", "7"],
    ]


@pytest.mark.parametrize(
    ("value", "status"), [(5e6, "failed"), (None, "ok")], ids=["failed", "unavailable"]
)
def test_what_has_no_number_has_no_details(value: Any, status: str) -> None:
    record = make_record("memory", values={"weights_bytes": value}, status=status)
    assert len(show_tables(make_run(record), details=True)) == 1
