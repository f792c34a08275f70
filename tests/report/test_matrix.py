"""The matrix: a row per cell, the numbers beside the reference, and what a reader must know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_measurement, load_precision
from harness.records.record import Record, Verdict
from harness.report.matrix import list_notes, render_matrix
from harness.suite.models import Limit, MeasurementSpec, ModelSpec, PrecisionSpec, Suite
from harness.verdicts.pairing import complete_records
from tests.support.records import make_record

PRECISIONS = ("fp32", "int8", "nf4")


def make_suite(*measurements: str, limits: tuple[Limit, ...] = ()) -> Suite:
    required = {"perplexity": {"text": {"path": "x.txt"}}}
    return Suite(
        name="s",
        reference="fp32",
        models=(ModelSpec(name="m", source="a/b"),),
        precisions=tuple(
            PrecisionSpec(name=name, use=name, options=load_precision(name).options())
            for name in PRECISIONS
        ),
        measurements=tuple(
            MeasurementSpec(
                name=name, options=load_measurement(name).options(**required.get(name, {}))
            )
            for name in measurements
        ),
        limits=limits,
        path=Path("/s.yaml"),
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


def render(suite: Suite, records: list[Record], width: int = 120) -> list[str]:
    text = render_matrix(suite, complete_records(suite, records), width=width)
    lines = text.split("\n")
    assert all(len(line) <= width for line in lines)
    return lines


def words(line: str) -> list[str]:
    return line.split()


def test_a_row_per_cell_with_the_reference_marked() -> None:
    suite = make_suite("footprint", limits=(limit("footprint.size_ratio", 0.25),))
    heading, *rows = render(suite, SIZES)
    assert heading.split("  ")[0] == "cell"
    assert words(heading) == ["cell", "weights", "MB", "×ref", "bits/w", "verdicts"]
    assert [words(row) for row in rows] == [
        ["m[fp32]", "1.00", "ref", "32.00", "reference"],
        ["m[int8]", "0.30", "0.300", "9.60", "FAIL", "0/1"],
        ["m[nf4]", "0.20", "0.200", "6.40", "PASS", "1/1"],
    ]


def test_columns_line_up() -> None:
    lines = render(make_suite("footprint"), SIZES)
    ends = {
        line.index(number) + len(number)
        for line, number in zip(lines[1:], ("32.00", "9.60", "6.40"))
    }
    assert len(ends) == 1


def test_batch_sizes_have_columns_of_their_own() -> None:
    records = [speed("fp32", b1=10.0, b8=40.0), speed("nf4", b1=15.0, b8=30.0)]
    text = "\n".join(render(make_suite("throughput"), records))
    for heading in ("tok/s b1", "tok/s b8", "×ref b1", "×ref b8"):
        assert heading in text
    row = next(words(line) for line in text.split("\n") if line.startswith("m[nf4]"))
    assert row == ["m[nf4]", "12,346", "12,346", "15.0", "30.0", "1.50", "0.75"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_what_does_not_fit_goes_into_further_tables(width: int) -> None:
    suite = make_suite("footprint", "throughput", limits=(limit("footprint.size_ratio", 1.0),))
    records = [*SIZES, *(speed(p, b1=10.0, b8=40.0) for p in PRECISIONS)]
    lines = render(suite, records, width)
    tables = "\n".join(lines).split("\n\n")
    assert len(tables) > 1
    for table in tables:
        assert [words(line)[0] for line in table.split("\n")[-3:]] == [
            "m[fp32]",
            "m[int8]",
            "m[nf4]",
        ]
    assert "…" not in "\n".join(lines)
    assert sum("verdicts" in table for table in tables) == 1
    assert "verdicts" in tables[-1]
    whole = render(suite, records, 200)
    assert sorted(words("\n".join(lines)), key=str).count("12,346") == 6
    assert "\n\n" not in "\n".join(whole)


@pytest.mark.parametrize("status", ["failed", "invalid", "skipped"])
def test_a_cell_without_numbers_says_why_in_their_place(status: str) -> None:
    broken = make_record("footprint", "nf4", status=status, reasons=("why",))
    *_, row = render(make_suite("footprint"), [*SIZES[:2], broken])
    last = [] if status == "skipped" else [status.upper()]
    assert words(row) == ["m[nf4]", status, status, status, *last]


def test_a_measurement_that_a_cell_lacks_is_left_blank() -> None:
    suite = make_suite("footprint", "throughput")
    lines = render(suite, [*SIZES, speed("nf4", b1=15.0)])
    assert words(lines[-1]) == ["m[nf4]", "0.20", "0.200", "6.40", "12,346", "15.0"]
    assert words(lines[-2]) == ["m[int8]", "0.30", "0.300", "9.60"]


def test_without_its_reference_a_ratio_is_a_dash() -> None:
    lines = render(make_suite("footprint"), [SIZES[0], make_record("footprint", "int8"), SIZES[2]])
    assert words(lines[-2]) == ["m[int8]", "—", "—", "—"]


def test_the_worst_verdict_is_shown_with_how_many_pass() -> None:
    def record(*outcomes: str) -> Record:
        verdicts = tuple(
            Verdict(verdict=o, metric="x", bound="max 1", value=None, text=f"text {o}")  # type: ignore[arg-type]
            for o in outcomes
        )
        return SIZES[2].model_copy(update={"verdicts": verdicts})

    for outcomes, shown in (
        (("PASS", "FAIL", "INCONCLUSIVE"), "FAIL 1/3"),
        (("PASS", "PASS", "INCONCLUSIVE"), "INCONCLUSIVE 2/3"),
        (("PASS", "PASS"), "PASS 2/2"),
    ):
        text = render_matrix(make_suite("footprint"), [record(*outcomes)])
        assert text.endswith(shown)


def test_color_is_used_only_where_asked_for() -> None:
    suite = make_suite("footprint")
    assert "\x1b[" not in render_matrix(suite, SIZES)
    assert "\x1b[" in render_matrix(suite, SIZES, color=True)


def test_notes_tell_flags_skips_and_undecided_limits_once() -> None:
    undecided = Verdict(
        verdict="INCONCLUSIVE",
        metric="x",
        bound="max 1",
        value=None,
        text="m[nf4] cannot be judged",
    )
    records = [
        *(make_record("memory", p, status="flagged", reasons=("no peak",)) for p in PRECISIONS),
        make_record("memory", "fp4", status="flagged", reasons=("no peak", "slow")),
        make_record("mmlu", "nf4", status="skipped", reasons=("no network",)),
        make_record("mmlu", "int8", status="failed", reasons=("is told elsewhere",)),
        SIZES[2].model_copy(update={"verdicts": (undecided,)}),
        SIZES[0],
    ]
    assert list_notes(records) == [
        "* flagged: no peak (m[fp32] memory, m[int8] memory, m[nf4] memory and 1 more)",
        "* flagged: slow (m[fp4] memory)",
        "skipped: no network (m[nf4] mmlu)",
        "undecided: m[nf4] cannot be judged",
    ]
    assert list_notes(SIZES) == []


def test_a_flagged_number_is_marked_where_it_stands() -> None:
    suite = make_suite("footprint")
    fine = make_record("footprint", "fp32", values={"total_bytes": 4_000_000})
    odd = make_record("footprint", "nf4", values={"total_bytes": 1_000_000}, status="flagged")
    text = render_matrix(suite, [fine, odd])
    assert "4.00 " in text
    assert "1.00*" in text
