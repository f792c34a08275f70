"""The result of an A/B comparison, for a person and for a program."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.run.ab import ENOUGH_PAIRS, Plan, Ratio


def render_ratios(plan: Plan, ratios: Sequence[Ratio], notes: Sequence[str], pairs: int) -> str:
    """A row per value; the better side is named where the interval leaves 1 out.

    ``pairs`` is how many whole pairs were measured. Means are geometric.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("mean over processes", no_wrap=True)
    for title in ("A", "B", "B/A", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("better", no_wrap=True)
    for row in ratios:
        interval = f"{row.ratio.low:.3f} to {row.ratio.high:.3f}"
        unit = f" {row.unit}" if row.unit else ""
        numbers = (f"{row.a:,.4g}", f"{row.b:,.4g}", f"{row.ratio.value:.3f}", interval)
        better = row.better_side or "—"
        # Text: a name with [8] in it is no markup.
        table.add_row(Text(f"{row.value}{unit}"), *numbers, better)
    console = Console(file=io.StringIO(), width=140, no_color=True, highlight=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    nothing = "no ratio: an interval needs 2 whole pairs, and a value that both sides have"
    told = [*_describe_sides(plan), "", *(lines if ratios else [nothing])]
    told += ["", f"{pairs} of {plan.pairs} pairs of fresh processes, in the order A B, B A, …"]
    if ratios and pairs < ENOUGH_PAIRS:
        told.append(
            f"warning: a comparison that must hold uses at least {ENOUGH_PAIRS} pairs (--pairs)"
        )
    return "\n".join([*told, *notes])


def dump_ratios(ratios: Sequence[Ratio], notes: Sequence[str]) -> str:
    """The same as JSON."""
    rows = [{**asdict(row), "better_side": row.better_side} for row in ratios]
    return json.dumps({"ratios": rows, "notes": list(notes)}, indent=1)


def _describe_sides(plan: Plan) -> list[str]:
    a, b = plan.sides
    same = a.python == b.python
    return [
        f"{side.name} = {plan.model}[{side.precision}]{'' if same else f' in {side.python}'}"
        for side in (a, b)
    ]
