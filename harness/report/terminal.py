"""A `Document` as text for a terminal or a log."""

import io
from collections.abc import Sequence
from textwrap import TextWrapper, indent

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from harness.report.document import (
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
from harness.report.plain import clean, on_one_line

WIDTH = 140  # where the terminal's own is not asked for
_PROSE_WIDTH = 100
_NARROWEST = 40
_STYLES = {"plain": "", "faint": "dim", "good": "green", "doubtful": "yellow", "bad": "bold red"}


def write_terminal(document: Document, width: int = WIDTH, colour: bool = False) -> str:
    """The parts below each other, without the document's title and without a last line end.

    Tables that ``width`` characters cannot hold are divided; sentences are not folded.
    """
    return "\n\n".join(_write(part, width, colour) for part in document.parts)


def _write(part: Part, width: int, colour: bool) -> str:
    match part:
        case Table():
            return _draw(part, max(width, _NARROWEST), colour)
        case Lines(lines):
            return "\n".join(map(on_one_line, lines))
        case Paragraph(text) | Picture(text=text):
            # A path stays whole: it is copied.
            folder = TextWrapper(_PROSE_WIDTH, break_long_words=False, break_on_hyphens=False)
            return "\n".join(map(folder.fill, clean(text).split("\n")))
        case Texts(prompt):
            marked = ((name, same, f"▸{rest}" if rest else "") for name, same, rest in part.split())
            rows = (f"{name}: {same}{rest}" for name, same, rest in marked)
            return "\n".join(map(on_one_line, (prompt, *rows)))
        case Section(title, parts, entry):
            shown = [_write(part, width, colour) for part in parts]
            body = indent("\n".join(shown), "   ") if entry else "\n\n".join(shown)
            return "\n".join(filter(None, (on_one_line(title), body)))


def _draw(table: Table, width: int, colour: bool) -> str:
    """The table, or as many below each other as the width asks for."""
    unbounded = Console(file=io.StringIO(), width=10_000)

    def fits(columns: Sequence[TableColumn]) -> bool:
        return unbounded.measure(_make_grid(columns)).maximum <= width

    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=colour, no_color=not colour, highlight=False
    )
    for number, columns in enumerate(split_columns(table, fits)):
        if number:
            console.print()
        console.print(_make_grid(columns), crop=False)
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip("\n").split("\n"))


def _make_grid(columns: Sequence[TableColumn]) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(
            Text(clean(column.title)),
            justify="right" if column.numbers else "left",
            no_wrap=True,
            vertical="bottom",
        )
    for cells in zip(*(column.cells for column in columns)):
        # Text: a name with [8] in it is not rich's markup.
        grid.add_row(*(Text(on_one_line(c.text), style=_STYLES[c.style]) for c in cells))
    return grid
