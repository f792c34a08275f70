"""The page of a run: what it shows, read from the document that writers get."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.records.find_runs import Found
from harness.records.record import Record, Value
from harness.report.document import (
    Document,
    Lines,
    Paragraph,
    Part,
    Picture,
    Section,
    Table,
    Texts,
    make_table,
)
from harness.report.html import write_html
from harness.report.page import make_page
from harness.verdicts.history_files import group_runs
from tests.support.pages import HOSTILE, find_page_run

pytest.importorskip("matplotlib")


def find(document: Document | Section, *titles: str) -> Section:
    """The section below these titles, each of which begins so."""
    section: Document | Section = document
    for title in titles:
        parts = (part for part in section.parts if isinstance(part, Section))
        section = next(part for part in parts if part.title.startswith(title))
    assert isinstance(section, Section)
    return section


def tables(section: Section) -> list[list[list[str]]]:
    """The rows of each table of a section, the titles first."""
    return [
        [[column.title for column in columns], *map(list, zip(*cells, strict=True))]
        for part in section.parts
        if isinstance(part, Table)
        for columns in [[*part.keys, *(c for block in part.blocks for c in block)]]
        for cells in [[[cell.text for cell in column.cells] for column in columns]]
    ]


def pictures(section: Section) -> list[str]:
    return [part.text for part in section.parts if isinstance(part, Picture)]


@pytest.fixture(scope="module")
def page() -> Document:
    return make_page([find_page_run()])


def test_the_first_section_answers_and_shows_loss_against_memory_and_against_speed(
    page: Document,
) -> None:
    first = find(page, "Which precision?", "m: nf4 is the smallest")
    memory, speed = pictures(first)
    assert memory.startswith("perplexity, × the reference's against weights, MB. ")
    assert "nf4: 1.00 MB weights (0.25 × fp32's); 1.050 ±0.010" in memory
    assert speed.startswith("perplexity, × the reference's against decoding at batch 1, tokens/s")
    # fp4 is as large as nf4 and worse, fp32 larger than int8 and not better within its interval;
    # int8 loses less than nf4 and is larger.
    beaten = [part.split(":")[0] for part in memory.split(". ") if "another is better" in part]
    assert beaten == ["fp32", "fp4"]
    others = pictures(find(first, "By the other measures of quality"))
    assert [text.split(",")[0] for text in others] == [
        *["divergence"] * 2,
        *["mmlu accuracy lost"] * 2,
    ]


def test_a_precision_is_shown_in_full(page: Document) -> None:
    nf4 = find(page, "One by one", "fp4: 1.00 MB weights")
    rows = {row[0]: row[1:] for row in tables(nf4)[0]}
    assert rows["perplexity.ratio"] == ["1.3", "1.28 to 1.32", "", "FAIL", "max 1.1"]
    assert rows["footprint.total_bytes"][:3] == ["1 MB", "", "4 MB"]
    [subjects] = tables(find(nf4, "mmlu: what lost most"))
    assert subjects == [
        ["subject", "right", "points lost", "95 % interval"],
        ["rivers", "50.0 %", "50.0", "+10.0 to +90.0"],
    ]
    flips = find(nf4, "m[fp32] → m[fp4] mmlu: right in fp32, wrong in fp4")
    entry = find(flips, "1. rivers/0")
    assert Paragraph("Which river? plain") in entry.parts
    assert tables(entry)[0][1] == ["A. Elm ✓", "-1.000", "-2.000", "fp32 (acc)"]
    int8 = find(page, "One by one", "int8", "Flags")
    assert int8.parts == (Lines(("throughput flagged: the machine was busy: plain",)),)


def test_texts_are_shown_side_by_side_with_the_first_difference_marked(page: Document) -> None:
    [texts] = [part for part in find(page, "side_by_side of m").parts if isinstance(part, Texts)]
    assert texts.prompt == "What is plain?"
    marked = {name: (same, rest) for name, same, rest in texts.split()}
    assert marked["nf4"] == ("It is plain, a mountain.", "")
    assert marked["fp4"] == ("It is plain, a ", "mill.")


def test_charts_follow_the_descriptions(page: Document) -> None:
    assert pictures(find(page, "divergence"))[0].startswith("divergence by quarter of the window.")
    drawn = [part for part in find(page, "throughput").parts if isinstance(part, Picture)]
    decode, _ = [part.text for part in drawn]
    assert "fp32: 1 100.0, 8 700.0." in decode
    assert [part.svg.count("(dashed: what the device can do)") for part in drawn] == [1, 0]
    [phases] = pictures(find(page, "memory"))
    assert phases.startswith("memory by phase, peak MB; all of it fits 8GB. fp32: loading 8.0")


def test_every_value_shown_is_defined_with_its_protocol(page: Document) -> None:
    perplexity = find(page, "What the numbers mean", "perplexity")
    [values] = tables(perplexity)
    assert values[-1][:3] == ["ratio", "—", "lower"]
    assert ["context", "256"] in tables(find(perplexity, "Protocol"))[0]
    facts = tables(find(page, "How it was run"))[0]
    assert ["commit", "abcdef1234" * 4] in facts
    assert ["cpu name", "Xeon"] in tables(find(page, "How it was run", "Environment"))[0]


def only(found: Found, measurement: str, speed: float = 1.0) -> Found:
    """One measurement of the run; nf4 decodes so many times as fast."""

    def change(record: Record, name: str, value: Value) -> Value:
        is_speed = record.cell.precision == "nf4" and name.startswith("decode_tokens")
        return value.model_copy(update={"value": speed * (value.value or 0)}) if is_speed else value

    records = tuple(
        record.model_copy(
            update={"values": {n: change(record, n, v) for n, v in record.values.items()}}
        )
        for record in found.run.records
        if record.measurement == measurement
    )
    return replace(found, run=found.run.model_copy(update={"records": records}))


@pytest.mark.slow
def test_several_runs_have_lines_over_time_with_change_points() -> None:
    days = {day: f"2026-01-{day:02d}T00:00:00+00:00" for day in range(1, 13)}
    found = [
        only(
            find_page_run(id=f"s/{day}", utc=utc, git_sha=f"{day:02d}" * 20),
            "throughput",
            speed=1.0 if day < 7 else 0.5,
        )
        for day, utc in days.items()
    ]
    page = make_page(found[-1:], group_runs(one.run for one in found))
    over_time = find(page, "Over time")
    drawn = pictures(over_time)
    assert drawn[0].startswith("m[nf4] throughput.decode_tokens_per_s[1] over 12 runs: 90, 90,")
    changes = find(over_time, "s on cpu-xeon: 12 runs", "Changes of level").parts[0]
    assert isinstance(changes, Lines)
    assert changes.lines[0].startswith(
        "m[nf4] throughput.decode_tokens_per_s[1] at 0707070707 2026-01-07: -50 %"
    )


def test_runs_of_several_suites_have_a_section_each() -> None:
    found = (find_page_run(suite=name) for name in "ab")
    page = make_page([only(one, "footprint") for one in found])
    assert page.title == "Precision report: a, b"
    assert [part.title for part in page.parts if isinstance(part, Section)] == [
        "a on cpu-xeon",
        "b on cpu-xeon",
    ]


# The file


def test_no_name_of_a_run_becomes_markup() -> None:
    html = write_html(make_page([find_page_run(HOSTILE, model=HOSTILE, suite=HOSTILE)]))
    body = html[html.index("<body>") : html.rindex("<script>")]
    assert "<script" not in body
    assert "<img" not in body
    assert "\u202e" not in html
    assert r"\u202e" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert "{{ 7*7 }}" in body


def test_nothing_is_loaded_from_elsewhere(page: Document) -> None:
    html = write_html(page)
    assert not re.findall(r'(?:src|srcset|href|action|data)="(?!#|data:)[^"]*', html)
    assert not re.findall(r"url\((?!#)|@import", html)
    assert " style=" not in html, "the page's own policy forbids it"
    assert " on" not in "".join(part for part in html.split("<")[1:] if part.startswith("button"))


def test_each_part_is_written_as_what_it_is() -> None:
    parts: tuple[Part, ...] = (
        Paragraph("two\nlines"),
        make_table(("name", "n\nMB"), [("a[8]", "1")], ("name",)),
        Texts("ask", (("a", "one two"), ("b", "one three"))),
        Picture("<svg></svg>", "a < b"),
        Section("entry: more", (Lines(("x",)),), entry=True),
    )
    html = write_html(Document("t", (Section("Part", parts),)))
    assert "<p>two<br>lines</p>" in html
    assert '<th scope="row" class="plain">a[8]</th>' in html
    assert '<th scope="col" class="number start">n<br>MB</th>' in html
    assert "<dd>one <mark>three</mark></dd>" in html
    assert '<div role="img" aria-label="a &lt; b"><svg></svg></div>' in html
    assert "<summary><b>entry</b>: more</summary>" in html
    assert '<a href="#s1">Part</a>' in html
    assert 'id="s1"' in html
