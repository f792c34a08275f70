"""A report as data: sections, tables, lines and pictures, which a writer draws.

Builders make a `Document` from records once. Texts are as the data has them: a writer makes them
harmless for the place where they are shown.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["plain", "faint", "good", "doubtful", "bad"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and what it means to a reader."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True)
class TableColumn:
    """A title, which may have several lines, and a cell per row; ``numbers`` go to the right."""

    title: str
    cells: tuple[Cell, ...]
    numbers: bool = True


@dataclass(frozen=True)
class Table:
    """Columns that name the rows, and blocks of columns that belong together.

    Where not all columns fit, a writer draws several tables: each begins with ``keys``, and a block
    is divided only where it is too wide by itself. ``names`` are the blocks', where they have any.
    """

    keys: tuple[TableColumn, ...]
    blocks: tuple[tuple[TableColumn, ...], ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lines:
    """Sentences or facts, one to a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Paragraph:
    """A text whose own line ends are shown; a terminal folds long lines."""

    text: str


@dataclass(frozen=True)
class Picture:
    """An SVG image, and the text that says the same where no picture can be shown."""

    svg: str
    text: str


@dataclass(frozen=True)
class Texts:
    """Texts that answer the same prompt, by the name of who wrote them, the first to compare with.

    A writer marks each of the others from the first difference on. Spaces around are lost.
    """

    prompt: str
    texts: tuple[tuple[str, str], ...]

    def split(self) -> list[tuple[str, str, str]]:
        """Name, what a text has in common with the first, and the rest, which begins a word."""
        stripped = [(name, text.strip()) for name, text in self.texts]
        first = stripped[0][1] if stripped else ""
        found = []
        for name, text in stripped:
            pairs = enumerate(zip(first, text))
            same = next((i for i, (a, b) in pairs if a != b), min(len(first), len(text)))
            if any(side[same : same + 1].strip() for side in (first, text)):  # within a word
                same = max(text.rfind(space, 0, same) for space in " \n") + 1
            found.append((name, text[:same], text[same:]))
        return found


@dataclass(frozen=True)
class Section:
    """Parts under a title. An ``entry`` is one of a list: set close together and indented."""

    title: str
    parts: "tuple[Part, ...]"
    entry: bool = False


Part = Table | Lines | Paragraph | Picture | Texts | Section


@dataclass(frozen=True)
class Document:
    """A whole report; the title is empty where it is part of another text."""

    title: str
    parts: tuple[Part, ...]


def make_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str], keys: int = 1
) -> Table:
    """A table of plain texts. ``words`` are the titles of columns that hold no numbers."""
    columns = tuple(
        TableColumn(title, tuple(Cell(row[i]) for row in rows), numbers=title not in words)
        for i, title in enumerate(titles)
    )
    return Table(columns[:keys], (columns[keys:],))


def list_lines(title: str, lines: Sequence[str]) -> tuple[Section, ...]:
    """A section of the lines; nothing where there are none."""
    return (Section(title, (Lines(tuple(lines)),)),) if lines else ()


def split_columns(
    table: Table, fits: Callable[[Sequence[TableColumn]], bool]
) -> list[list[TableColumn]]:
    """The columns of each table to draw, so that each ``fits`` where that is possible at all."""
    tables = [list(table.keys)]
    for block in table.blocks:
        for i, column in enumerate(block):
            more = [column] if i else block
            if len(tables[-1]) > len(table.keys) and not fits([*tables[-1], *more]):
                tables.append(list(table.keys))
            tables[-1].append(column)
    return tables
