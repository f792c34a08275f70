"""A `Document` as one HTML file that needs nothing else: no network, no other file.

jinja2 escapes every text. The page's policy forbids everything but its own style and script, which
it names by their hashes; without the script all is readable, and tables are not sortable.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate, groupby
from typing import Any

from harness import __version__
from harness.report.document import Cell, Document, Part, Section, Table, TableColumn
from harness.report.plain import clean


def write_html(document: Document) -> str:
    """The whole file, as text that is to be stored as UTF-8."""
    from jinja2 import Environment

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters.update(
        alike=_group_alike,
        blocks=_list_blocks,
        columns=_list_columns,
        starts=_list_starts,
        rows=_list_rows,
    )
    style, script = _read("page.css"), _read("page.js")
    text = environment.from_string(_read("page.html.j2")).render(
        document=document,
        sections=[part for part in document.parts if isinstance(part, Section)],
        style=style,
        script=script,
        policy="default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}; img-src data:",
        version=__version__,
    )
    return text + "\n"


def _finalize(value: Any) -> Any:
    """Every text that is shown, without what acts on a reader's eyes, such as reversed writing."""
    return clean(value) if type(value) is str else value


def _group_alike(parts: Sequence[Part]) -> Iterator[tuple[str, list[Part]]]:
    """Neighbours of one kind together: pictures side by side, entries as one list."""

    def name(part: Part) -> str:
        return "Entry" if isinstance(part, Section) and part.entry else type(part).__name__

    for kind, alike in groupby(parts, name):
        yield kind, list(alike)


def _list_blocks(table: Table) -> list[tuple[str, int]]:
    """The names above the columns and how many each is above; nothing where there are none."""
    spans = [("", len(table.keys)), *zip(table.names, map(len, table.blocks))]
    return spans if any(table.names) else []


def _list_columns(table: Table) -> list[TableColumn]:
    return [*table.keys, *(column for block in table.blocks for column in block)]


def _list_starts(table: Table) -> set[int]:
    """The numbers of the columns that begin a block."""
    return set(accumulate(map(len, table.blocks), initial=len(table.keys)))


def _list_rows(table: Table) -> Iterator[tuple[Cell, ...]]:
    return zip(*(column.cells for column in _list_columns(table)), strict=True)


@cache
def _read(name: str) -> str:
    return files("harness.report").joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
