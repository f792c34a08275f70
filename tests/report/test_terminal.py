"""A document as text for a terminal."""

from __future__ import annotations

from harness.report.document import (
    Document,
    Lines,
    Paragraph,
    Picture,
    Section,
    Texts,
    make_table,
)
from harness.report.markdown import write_markdown
from harness.report.terminal import write_terminal

TABLE = make_table(("cell", "value", "now", "before"), [("m[8]", "ppl", "1.5", "2")], ("cell",), 2)


def test_parts_are_set_apart_and_entries_are_indented() -> None:
    entry = Section("1. first", (Lines(("a", "b")), Paragraph("c\nd")), entry=True)
    document = Document("not shown", (Section("Items", (Lines(("x",)), entry)), Lines(("end",))))
    assert write_terminal(document) == "Items\nx\n\n1. first\n   a\n   b\n   c\n   d\n\nend"


def test_each_part_of_a_divided_table_begins_with_the_columns_that_name_its_rows() -> None:
    wide = make_table(("cell", "a" * 30, "b" * 30), [("m[8]", "1", "2")], ("cell",))
    first, second = write_terminal(Document("", (wide,)), width=40).split("\n\n")
    assert first.split() == ["cell", "a" * 30, "m[8]", "1"]
    assert second.split() == ["cell", "b" * 30, "m[8]", "2"]
    [heading, row] = write_terminal(Document("", (TABLE,))).split("\n")
    assert heading.split() == ["cell", "value", "now", "before"]
    assert row.split() == ["m[8]", "ppl", "1.5", "2"]


def test_nothing_acts_on_the_terminal() -> None:
    evil = "\x1b[2J"
    parts = (Paragraph(evil), Lines((f"{evil}\n::error::",)))
    table = make_table((evil, "a"), [(evil, evil)], ())
    text = write_terminal(Document(evil, (*parts, table, Section(evil, parts, entry=True))))
    assert "\x1b" not in text
    assert not any(line.startswith("::") for line in text.split("\n"))


def test_long_texts_are_folded_and_lines_are_not() -> None:
    words = "word " * 40 + "end"
    shown = write_terminal(Document("", (Paragraph(words), Lines((words,)))))
    folded, whole = shown.split("\n\n")
    assert max(map(len, folded.split("\n"))) <= 100
    assert whole == words


def test_a_picture_is_replaced_by_its_text() -> None:
    document = Document("", (Picture("<svg/>", "nf4 holds a quarter of the bytes"),))
    assert write_terminal(document) == "nf4 holds a quarter of the bytes"
    assert write_markdown(document) == "nf4 holds a quarter of the bytes"


def test_texts_are_marked_from_the_word_on_in_which_they_differ() -> None:
    texts = Texts(
        "ask", (("a", " one two three"), ("b", "one twin three\n"), ("c", "one two three"))
    )
    assert texts.split() == [
        ("a", "one two three", ""),
        ("b", "one ", "twin three"),
        ("c", "one two three", ""),
    ]
    assert Texts("", (("a", "x"), ("b", ""))).split()[1] == ("b", "", "")
    assert Texts("", (("a", "one"), ("b", "one two"))).split()[1] == ("b", "one", " two")
    assert Texts("", (("a", "one"), ("b", "ones"))).split()[1] == ("b", "", "ones")
    document = Document("", (texts,))
    assert write_terminal(document).split("\n")[2] == "b: one ▸twin three"
    assert write_markdown(document).split("\n")[2:] == [
        "- a: one two three",
        "- b: one **twin three**",
        "- c: one two three",
    ]
