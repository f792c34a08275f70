"""A run's summary as Markdown, rendered by a Markdown library and read as a person would."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape

import pytest
from markdown_it import MarkdownIt

from harness.records.record import Record, Verdict
from harness.records.run_file import Run
from harness.report.document import Document, Paragraph, Section, make_table
from harness.report.markdown import escape, write_markdown
from harness.report.summary import summarise_run
from tests.report.test_matrix import SIZES, limit, speed
from tests.support.records import make_record, make_run
from tests.support.summaries import PRECISIONS, RUN_FILE, finish, make_suite

HOSTILE = (
    "a|b",
    "`rm -rf`",
    "<img src=x onerror=alert(1)>",
    "**bold** _it_ ~~gone~~ $x^2$",
    "[a](https://example.org)",
    "![i](x.png)",
    "a & b &lt; c",
    "back\\slash \\| pipe",
    "# no heading",
    "- no list",
    "1. no list",
    "+ 2",
    "---",
    "~0.99 and 1.01~",
    "two\nlines\r\nand\ttab",
    "<!-- hidden -->",
)


@dataclass(frozen=True)
class Page:
    """What the Markdown renders to."""

    html: str

    @property
    def tables(self) -> list[list[list[str]]]:
        """Tables -> rows -> the text of the cells."""
        return [
            [
                [text_of(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
                for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
            ]
            for table in re.findall(r"<table>(.*?)</table>", self.html, re.S)
        ]

    def lines_below(self, heading: str) -> list[str]:
        """The list under a heading; empty where there is none."""
        found = re.search(rf"<h3>{heading}</h3>\s*<ul>(.*?)</ul>", self.html, re.S)
        return [text_of(i) for i in re.findall(r"<li>(.*?)</li>", found[1] if found else "", re.S)]


def text_of(html: str) -> str:
    text = re.sub(r"<br ?/?>", " ", html)
    return unescape(re.sub(r"<[^>]+>", "", text)).strip()


def render(markdown: str) -> Page:
    return Page(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


def write(run: Run) -> str:
    return write_markdown(summarise_run(run, RUN_FILE))


def summarise(run: Run) -> Page:
    return render(write(run))


def with_verdicts(*verdicts: tuple[str, str]) -> Record:
    made = tuple(
        Verdict(verdict=outcome, metric="footprint.x", bound="max 1", value=None, text=text)  # type: ignore[arg-type]
        for outcome, text in verdicts
    )
    return SIZES[2].model_copy(update={"verdicts": made})


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_shown_as_it_is_and_nothing_in_it_is_rendered(text: str) -> None:
    shown = " ".join(text.split())
    item = render(f"- {escape(text)}\n").html
    assert item == f"<ul>\n<li>{item[9:-12]}</li>\n</ul>\n"
    assert text_of(item) == shown
    [[_, row]] = render(f"| a | b |\n| -- | -- |\n| {escape(text)} | z |\n").tables
    assert row == [shown, "z"]
    for rendered in (item.removeprefix("<ul>\n<li>"), render(escape(text)).html):
        assert not re.search(r"<(img|a|em|strong|s|code|h\d|hr|li|script)\b", rendered)


@pytest.mark.parametrize("text", ["suites/s.yaml:100:5", "a :white_check_mark: b", ":+1:"])
def test_github_sees_no_emoji_between_two_colons(text: str) -> None:
    html = render(escape(text)).html
    assert not re.search(r":[\w+-]+:", html)
    assert text_of(html) == text


def test_the_matrix_is_a_table_with_numbers_to_the_right_and_failures_in_bold() -> None:
    suite = make_suite("footprint", limits=(limit("footprint.size_ratio", 0.25),))
    run = finish(suite, SIZES)
    [table] = summarise(run).tables
    assert table == [
        ["m", "verdicts", "weights MB", "×ref", "bits/w"],
        ["fp32", "reference", "1.00", "ref", "32.00"],
        ["int8", "FAIL 0/1", "0.30", "0.300", "9.60"],
        ["nf4", "PASS 1/1", "0.20", "0.200", "6.40"],
    ]
    assert "| :-- | :-- | --: | --: | --: |" in write(run)
    assert re.findall(r"\*\*(.*?)\*\* \|", write(run)) == ["FAIL 0/1"]


def test_a_wide_matrix_becomes_tables_that_repeat_the_cells() -> None:
    suite = make_suite("footprint", "throughput", limits=(limit("footprint.size_ratio", 1.0),))
    batches = {f"b{2**i}": 10.0 + i for i in range(12)}
    page = summarise(finish(suite, [*SIZES, *(speed(p, **batches) for p in PRECISIONS)]))
    assert len(page.tables) > 1
    for table in page.tables:
        assert [row[0] for row in table] == ["m", "fp32", "int8", "nf4"]
    headings = [title for table in page.tables for title in table[0][1:]]
    assert len(headings) == 3 + 3 * len(batches) + 1
    assert headings[0] == "verdicts"
    assert headings.count("verdicts") == 1


def test_what_fails_or_is_undecided_is_listed_and_what_passes_is_counted() -> None:
    record = with_verdicts(
        ("PASS", "passes quietly"),
        ("FAIL", "it fails | badly"),
        ("INCONCLUSIVE", "who knows"),
        ("PASS", "passes too"),
    )
    markdown = write(make_run(record))
    page = render(markdown)
    assert "<p>verdicts: 1 FAIL, 1 INCONCLUSIVE, 2 PASS; 1 measurement<br>" in page.html
    assert page.lines_below("Failed") == ["it fails | badly"]
    assert page.lines_below("Undecided") == ["who knows"]
    assert page.lines_below("Notes") == []
    assert "passes" not in markdown


def test_a_cell_without_numbers_says_why_once_and_its_name_is_no_markup() -> None:
    reasons = ("CUDA | out of <memory>",)
    page = summarise(
        make_run(
            make_record("footprint", "nf4", model="a_b_c", status="failed", reasons=reasons),
            make_record("throughput", "nf4", model="a_b_c", status="failed", reasons=reasons),
            make_record("footprint", "int8", status="skipped", reasons=("no `network`",)),
        )
    )
    assert page.lines_below("Failed") == [
        "a_b_c[nf4] footprint, throughput failed: CUDA | out of <memory>"
    ]
    assert page.lines_below("Notes") == ["skipped: no `network` (footprint of m[int8])"]
    assert "no limit was judged" in page.html
    assert "3 measurements, 2 failed, 1 skipped" in page.html


def test_it_says_where_the_numbers_are_from() -> None:
    suite = make_suite("footprint")
    text = text_of(summarise(finish(suite, SIZES)).html)
    for fact in (
        "precision-harness: s",
        "cpu (An_Intel_CPU), torch 2.13.0+cpu",
        "reference fp32",
        "commit abcdef1234",
        f"run file: {RUN_FILE}",
    ):
        assert fact in text
    dirty = summarise(finish(suite, SIZES, git_dirty=True, remarks=("interrupted: 1 of 3",)))
    assert "commit abcdef1234, with changes" in text_of(dirty.html)
    assert dirty.lines_below("Notes") == ["interrupted: 1 of 3"]
    assert "no git" in text_of(summarise(finish(suite, SIZES, git_sha=None, git_dirty=None)).html)


def test_flags_stay_readable_next_to_their_numbers() -> None:
    values = {"total_bytes": 1_000_000}
    reasons = ("the machine was busy",)
    odd = make_record("footprint", "nf4", values=values, status="flagged", reasons=reasons)
    page = summarise(make_run(odd))
    assert page.tables[0][1][2] == "1.00*"
    assert page.lines_below("Notes") == ["* flagged: the machine was busy (footprint of m[nf4])"]


def test_every_part_of_a_document_is_escaped() -> None:
    evil = "<b>|x"
    entry = Section(evil, (Paragraph(f"{evil}\n{evil}"),), entry=True)
    document = Document(evil, (make_table([evil], [[evil]], []), Section(evil, (entry,))))
    markdown = write_markdown(document)
    assert "<b>" not in markdown
    assert text_of(render(markdown).html).count("<b>|x") == 7
