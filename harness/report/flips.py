"""Which answers a precision changes: a row per cell and task that has right and wrong items."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.record import Record, Value

_WORST = 3


def render_flips(records: Iterable[Record], width: int = 120) -> str:
    """A table of changed answers and of the subjects that lost most; empty where none compares."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("changed answers", no_wrap=True)
    for title in ("items", "changed", "right→wrong", "wrong→right", "ties"):
        table.add_column(title, justify="right", no_wrap=True, min_width=len(title))
    table.add_column("worst subjects, points lost", overflow="ellipsis", no_wrap=True)
    for record in records:
        lost = record.paired.get("right_to_wrong")
        if lost is None or record.noise:
            continue
        changed = record.paired.get("answer_change_rate")
        shown = "—" if changed is None or changed.value is None else f"{changed.value:.1%}"
        ties = record.values.get("ties")
        table.add_row(
            Text(f"{record.cell.id} {record.measurement}"),
            _count(record.values.get("items")),
            shown,
            _count(lost),
            _count(record.paired.get("wrong_to_right")),
            _count(ties),
            Text(", ".join(f"{name} {drop * 100:.1f}" for name, drop in find_worst(record))),
        )
    if not table.row_count:
        return ""
    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


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
