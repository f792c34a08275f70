"""Which answers a precision changes: a row per cell and task that has right and wrong items."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records.record import Record, Value

_WORST = 3
_SUBJECTS = "worst subjects, points lost"


def render_flips(records: Iterable[Record], width: int = 120) -> str:
    """A table of changed answers and of the subjects that lost most; empty where none compares.

    The subjects go first where ``width`` characters do not hold everything.
    """
    compared = [r for r in records if "right_to_wrong" in r.paired and not r.noise]
    if not compared:
        return ""
    left = width - 2 - Console(width=10_000).measure(_make_table(compared, None)).maximum
    table = _make_table(compared, left if left >= len(_SUBJECTS) else None)
    console = Console(file=io.StringIO(), width=max(width, 40), no_color=True, highlight=False)
    console.print(table, crop=False, no_wrap=True)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _make_table(records: Iterable[Record], subjects_width: int | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("changed answers", no_wrap=True)
    for title in ("items", "changed", "right→wrong", "wrong→right", "ties"):
        table.add_column(title, justify="right", no_wrap=True)
    if subjects_width is not None:
        table.add_column(_SUBJECTS, overflow="ellipsis", no_wrap=True, max_width=subjects_width)
    for record in records:
        changed = record.paired.get("answer_change_rate")
        worst = ", ".join(f"{name} {drop * 100:.1f}" for name, drop in find_worst(record))
        table.add_row(
            Text(f"{record.cell.id} {record.measurement}"),
            _count(record.values.get("items")),
            "—" if changed is None or changed.value is None else f"{changed.value:.1%}",
            _count(record.paired.get("right_to_wrong")),
            _count(record.paired.get("wrong_to_right")),
            _count(record.values.get("ties")),
            *([] if subjects_width is None else [Text(worst)]),
        )
    return table


def find_worst(record: Record) -> list[tuple[str, float]]:
    """The subjects that lost most accuracy, the worst first; only those that lost any."""
    drops = [
        (name.partition("[")[2].rstrip("]"), value.value)
        for name, value in record.paired.items()
        if name.startswith("accuracy_drop[") and value.value is not None and value.value > 0
    ]
    return sorted(drops, key=lambda pair: -pair[1])[:_WORST]


def _count(value: Value | None) -> str:
    return "—" if value is None or value.value is None else f"{value.value:,}"
