"""A `Document` as Markdown for GitHub: a job's summary or a comment.

Every text is escaped, so that a model's name or an error's message is shown and never rendered.
"""

import html
import re
from collections.abc import Sequence

from harness.report.document import (
    Cell,
    Document,
    Lines,
    Paragraph,
    Part,
    Picture,
    Section,
    Table,
    TableColumn,
    Texts,
    split_columns,
)
from harness.report.plain import clean

_WIDTH = 130  # characters of a table's widest row that GitHub's page shows without a scroll bar
_SPECIAL = re.compile(r"([\\`*_\[\]~|$])")
_STARTS_BLOCK = re.compile(r"^(\d*)([-+.#])(?=[-#\s]|$)")
_MENTION = re.compile(r"(@(?=\w)|#(?=\d))")
_EMOJI = re.compile(r":(?=[\w+-]+:)")


def write_markdown(document: Document) -> str:
    """The title as a heading, then the parts; without a last line end."""
    title = [f"## {escape(document.title)}"] if document.title else []
    return "\n\n".join([*title, *(_write(part) for part in document.parts)])


def escape(text: str) -> str:
    """``text`` as it is read: on one line, with nothing in it that Markdown or HTML would act on.

    Between two colons GitHub reads even a line number as an emoji's name, and in a comment a user
    or an issue behind ``@`` and ``#``; ``<wbr>`` separates them.
    """
    text = html.escape(" ".join(clean(text).split()), quote=False)
    text = _MENTION.sub(r"\1<wbr>", _EMOJI.sub(":<wbr>", text))
    text = _SPECIAL.sub(r"\\\1", text)
    return _STARTS_BLOCK.sub(r"\1\\\2", text)


def _write(part: Part) -> str:
    match part:
        case Table():
            tables = split_columns(part, lambda columns: sum(map(_width, columns)) <= _WIDTH)
            return "\n\n".join(map(_draw, tables))
        case Lines(lines):
            return "\n".join(f"- {escape(line)}" for line in lines)
        case Paragraph(text) | Picture(text=text):
            return _break_lines(text)
        case Texts(prompt):
            rows = (
                f"- {escape(name)}: {escape(same)}" + (f" **{escape(rest)}**" if rest else "")
                for name, same, rest in part.split()
            )
            return "\n".join([escape(prompt), "", *rows])
        case Section(title, parts, entry):
            heading = f"**{escape(title)}**" if entry else f"### {escape(title)}"
            return "\n\n".join([heading, *map(_write, parts)])


def _draw(columns: Sequence[TableColumn]) -> str:
    titles = [_break_lines(column.title) for column in columns]
    marks = ["--:" if column.numbers else ":--" for column in columns]
    rows = [list(map(_show, cells)) for cells in zip(*(column.cells for column in columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, marks, *rows))


def _show(cell: Cell) -> str:
    return f"**{escape(cell.text)}**" if cell.style == "bad" else escape(cell.text)


def _width(column: TableColumn) -> int:
    lines = [*column.title.split("\n"), *(cell.text for cell in column.cells)]
    return max(map(len, lines)) + 3


def _break_lines(text: str) -> str:
    return "<br>".join(map(escape, text.split("\n")))
