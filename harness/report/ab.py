"""The result of an A/B comparison, for a person and for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.report.document import Document, Lines, Part, make_table
from harness.run.ab import ENOUGH_PAIRS, Plan, Ratio

_TITLES = ("mean over processes", "A", "B", "B/A", "95 % interval", "better")
_WORDS = ("mean over processes", "better")


def show_ratios(plan: Plan, ratios: Sequence[Ratio], notes: Sequence[str], pairs: int) -> Document:
    """A row per value; the better side is named where the interval excludes 1.

    ``pairs`` is how many whole pairs were measured. Means are geometric.
    """
    rows = [
        (
            f"{row.value} {row.unit}".rstrip(),
            f"{row.a:,.4g}",
            f"{row.b:,.4g}",
            f"{row.ratio.value:.3f}",
            f"{row.ratio.low:.3f} to {row.ratio.high:.3f}",
            row.better_side or "—",
        )
        for row in ratios
    ]
    nothing = Lines(
        ("no ratio: an interval needs 2 whole pairs, and a value that both sides have",)
    )
    table: Part = make_table(_TITLES, rows, _WORDS) if rows else nothing
    facts = [f"{pairs} of {plan.pairs} pairs of fresh processes, in the order A B, B A, …"]
    if ratios and pairs < ENOUGH_PAIRS:
        facts.append(
            f"warning: a comparison that must hold uses at least {ENOUGH_PAIRS} pairs (--pairs)"
        )
    return Document("", (_describe_sides(plan), table, Lines((*facts, *notes))))


def dump_ratios(ratios: Sequence[Ratio], notes: Sequence[str]) -> dict[str, Any]:
    """The same as plain data."""
    rows = [{**asdict(row), "better_side": row.better_side} for row in ratios]
    return {"ratios": rows, "notes": list(notes)}


def _describe_sides(plan: Plan) -> Lines:
    a, b = plan.sides
    same = a.python == b.python
    return Lines(
        tuple(
            f"{side.name} = {plan.model}[{side.precision}]{'' if same else f' in {side.python}'}"
            for side in (a, b)
        )
    )
