"""The result of an A/B comparison, for a person and for a program."""

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
    table: Part = make_table(_TITLES, rows, _WORDS)
    facts = [f"{pairs} of {plan.pairs} pairs of fresh processes, in the order A B, B A, …"]
    if not rows:
        table = Lines(("no ratio: an interval needs 2 whole pairs, and a value of both sides",))
    elif pairs < ENOUGH_PAIRS:
        facts.append(
            f"warning: a comparison that must hold uses at least {ENOUGH_PAIRS} pairs (--pairs)"
        )
    is_one_python = len({side.python for side in plan.sides}) == 1
    sides = (
        f"{side.name} = {plan.model}[{side.precision}]"
        f"{'' if is_one_python else f' in {side.python}'}"
        for side in plan.sides
    )
    return Document("", (Lines(tuple(sides)), table, Lines((*facts, *notes))))


def dump_ratios(ratios: Sequence[Ratio], notes: Sequence[str]) -> dict[str, Any]:
    """The same as plain data."""
    rows = [{**asdict(row), "better_side": row.better_side} for row in ratios]
    return {"ratios": rows, "notes": list(notes)}
