"""A comparison of two runs for a person, for a pull request and for a program. Pure."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records.record import Verdict
from harness.report.markdown import draw_table, escape
from harness.report.plain import clean, on_one_line
from harness.verdicts.compare import Compared, Comparison

_TITLES = ("cell", "value", "A", "B", "change", "95 % interval", "margin", "verdict")
_LONGEST = 1000  # characters of a sentence; what is longer was not written by us
_WORDS = ("cell", "value", "verdict")


@dataclass(frozen=True)
class Titled:
    """A comparison and what its two sides are called."""

    a: str
    b: str
    comparison: Comparison


def render_text(titled: Titled, width: int = 140) -> str:
    """A row per judged value, worst first; equal ones are counted."""
    comparison = titled.comparison
    rows = _rows(comparison)
    parts = [f"A: {on_one_line(titled.a, _LONGEST)}\nB: {on_one_line(titled.b, _LONGEST)}"]
    if rows:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for title in _TITLES:
            table.add_column(title, justify="left" if title in _WORDS else "right")
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        parts.append("\n".join(line.rstrip() for line in console.file.getvalue().splitlines()))
    told = ("\n".join(on_one_line(line, _LONGEST) for line in lines) for lines in _tell(comparison))
    return "\n\n".join([*parts, *filter(None, told)])


def render_markdown(titled: Titled) -> str:
    """The same for GitHub."""
    comparison = titled.comparison
    rows = _rows(comparison)
    parts = [f"**A** {escape(titled.a)}  \n**B** {escape(titled.b)}"]
    if rows:
        cells = [tuple(map(escape, row)) for row in rows]
        parts.append(draw_table(_TITLES, cells, [title not in _WORDS for title in _TITLES]))
    told = ("\n".join(f"- {escape(line)}" for line in lines) for lines in _tell(comparison))
    return "\n\n".join([*parts, *filter(None, told)])


def dump_comparison(titled: Titled, flips: Sequence[object]) -> dict[str, object]:
    """The same as plain data, with the ledgers of flips."""
    comparison = titled.comparison
    return {
        "a": titled.a,
        "b": titled.b,
        "verdict": comparison.verdict,
        "compared": [{**asdict(one), "improved": one.improved} for one in comparison.compared],
        "refused": [asdict(one) for one in comparison.refused],
        "missing": [asdict(one) for one in comparison.missing],
        "flags": list(comparison.flags),
        "flips": list(flips),
    }


def dump_json(comparisons: Sequence[Titled], flips: Sequence[Sequence[object]]) -> str:
    """All comparisons of one invocation, each with its ledgers of flips."""
    found = [dump_comparison(one, own) for one, own in zip(comparisons, flips, strict=True)]
    return json.dumps(found, indent=1, allow_nan=False)


@dataclass(frozen=True)
class Judged:
    """A run's verdicts against thresholds, and what both are called."""

    thresholds: str
    run: str
    verdicts: tuple[Verdict, ...]


def render_judged(judged: Sequence[Judged], form: Literal["text", "md", "json"]) -> str:
    """What is worse or open in a sentence each, and how many verdicts of which kind."""
    if form == "json":
        return json.dumps(
            [{**asdict(one), "verdicts": [v.model_dump() for v in one.verdicts]} for one in judged],
            indent=1,
            allow_nan=False,
        )
    parts = []
    for one in judged:
        counts = Counter(verdict.verdict for verdict in one.verdicts)
        told = [v.text for v in one.verdicts if v.verdict != "PASS"]
        lines = [f"thresholds: {one.thresholds}", f"run: {one.run}", *told]
        lines.append(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
        marked = [
            f"- {escape(line)}" if form == "md" else on_one_line(line, _LONGEST) for line in lines
        ]
        parts.append("\n".join(marked))
    return "\n\n".join(parts)


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """What is worth a line: what is not the same, the worst first."""
    order = ("FAIL", "INCONCLUSIVE", "PASS")
    shown = [one for one in comparison.compared if one.verdict != "IDENTICAL"]
    shown.sort(key=lambda one: order.index(one.verdict))
    return [_row(one) for one in shown]


def _row(one: Compared) -> tuple[str, ...]:
    change, ends = one.change, one.interval
    if not one.is_ratio and ((one.b or 0) - (one.a or 0)) * change < 0:
        # A drop is shown as every other column shows it: B less A.
        change, ends = -change, ends and (-ends[1], -ends[0])
    interval = "—"
    if ends is not None:
        interval = " to ".join(_show_change(end, one.is_ratio) for end in ends)
    margin = f"{one.margin:.2%}" if one.is_ratio else f"{one.margin:.4g}"
    verdict = "PASS, better" if one.verdict == "PASS" and one.improved else one.verdict
    return (
        one.cell,
        f"{one.measurement}.{one.value}",
        _show(one.a),
        _show(one.b),
        _show_change(change, one.is_ratio),
        interval,
        margin,
        verdict,
    )


def _tell(comparison: Comparison) -> list[list[str]]:
    """What the table does not hold, in paragraphs: why, refusals, gaps, and the sum of it."""
    reasons: dict[str, list[Compared]] = {}
    for one in comparison.compared:
        if one.reason:
            reasons.setdefault(one.reason + _show_detectable(one), []).append(one)
    why = [f"{_name(alike)}: {reason}" for reason, alike in reasons.items()]
    refused = [
        f"{one.cell} {one.measurement} is incomparable: "
        + ", ".join(map(str, one.differences))
        + "; --allow FIELD compares all the same"
        for one in comparison.refused
    ]
    missing = [
        f"{one.cell} {one.measurement}: {one.reason} ({one.verdict})" for one in comparison.missing
    ]
    counts = Counter(one.verdict for one in comparison.compared)
    total = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    summary = f"{comparison.verdict}: {total or 'nothing was comparable'}"
    return [why, refused, missing, list(comparison.flags), [summary]]


def _name(alike: Sequence[Compared]) -> str:
    """The value that a sentence is about, or how many."""
    first = alike[0]
    name = f"{first.cell} {first.measurement}.{first.value}"
    return name if len(alike) == 1 else f"{name} and {len(alike) - 1} more"


def _show_detectable(one: Compared) -> str:
    if one.smallest_detectable is None:
        return ""
    share = f"{one.smallest_detectable:.2%}" if one.is_ratio else f"{one.smallest_detectable:.4g}"
    return f"; harm is seen with 80 % power from {share} on"


def _show(number: float | None) -> str:
    if number is None:
        return "—"
    return f"{number:,}" if isinstance(number, int) else f"{number:,.6g}"


def _show_change(change: float, is_ratio: bool) -> str:
    return f"{change - 1:+.2%}" if is_ratio else f"{change:+.4g}"
