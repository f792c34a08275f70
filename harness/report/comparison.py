"""Two runs compared, or a run judged by thresholds: for a person, and for a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.records.record import Verdict
from harness.report.document import Document, Lines, Part, make_table
from harness.verdicts.compare import Compared, Comparison

_TITLES = ("cell", "value", "A", "B", "change", "95 % interval", "margin", "verdict")
_WORDS = ("cell", "value", "verdict")
_ORDER = ("FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True)
class NamedComparison:
    """A comparison and what its two sides are called."""

    a: str
    b: str
    comparison: Comparison


def show_comparison(named: NamedComparison, ledgers: Iterable[Part] = ()) -> Document:
    """A row per value that is not identical, the worst first; then reasons, and the sum of it."""
    comparison = named.comparison
    shown = [one for one in comparison.compared if one.verdict != "IDENTICAL"]
    rows = [_make_row(one) for one in sorted(shown, key=lambda one: _ORDER.index(one.verdict))]
    paragraphs: list[Part] = [
        Lines(tuple(lines)) for lines in (*_explain(comparison), [_summarise(comparison)]) if lines
    ]
    table = [make_table(_TITLES, rows, _WORDS, keys=2)] if rows else []
    heading = Lines((f"A: {named.a}", f"B: {named.b}"))
    return Document("", (heading, *table, *paragraphs, *ledgers))


def dump_comparison(named: NamedComparison, flips: Sequence[object]) -> dict[str, Any]:
    """The same as plain data, with the ledgers of flips."""
    comparison = named.comparison
    return {
        "a": named.a,
        "b": named.b,
        "verdict": comparison.verdict,
        "compared": [{**asdict(one), "improved": one.improved} for one in comparison.compared],
        "refused": [asdict(one) for one in comparison.refused],
        "missing": [asdict(one) for one in comparison.missing],
        "flags": list(comparison.flags),
        "flips": list(flips),
    }


def show_judged(thresholds: str, run: str, verdicts: Sequence[Verdict]) -> Document:
    """A sentence for each value that is worse or open, and the number of verdicts of each kind."""
    counts = _count(Counter(verdict.verdict for verdict in verdicts))
    worse = [verdict.text for verdict in verdicts if verdict.verdict != "PASS"]
    return Document("", (Lines((f"thresholds: {thresholds}", f"run: {run}", *worse, counts)),))


def _make_row(one: Compared) -> tuple[str, ...]:
    change, ends = one.change, one.interval
    if not one.is_ratio and ((one.b or 0) - (one.a or 0)) * change < 0:
        # A drop is shown as every other column shows it: B less A.
        change, ends = -change, ends and (-ends[1], -ends[0])
    return (
        one.cell,
        f"{one.measurement}.{one.value}",
        _show(one.a),
        _show(one.b),
        _show_change(change, one.is_ratio),
        "—" if ends is None else " to ".join(_show_change(end, one.is_ratio) for end in ends),
        f"{one.margin:.2%}" if one.is_ratio else f"{one.margin:.4g}",
        "PASS, better" if one.verdict == "PASS" and one.improved else one.verdict,
    )


def _explain(comparison: Comparison) -> list[list[str]]:
    """What the table does not hold: reasons, refusals, gaps and what was allowed."""
    reasons: dict[str, list[Compared]] = {}
    for one in comparison.compared:
        if one.reason:
            reasons.setdefault(one.reason + _show_detectable(one), []).append(one)
    refused = [
        f"{one.cell} {one.measurement} is incomparable: "
        + ", ".join(map(str, one.differences))
        + "; --allow FIELD compares all the same"
        for one in comparison.refused
    ]
    gaps: dict[tuple[str, str], list[str]] = {}
    for gap in comparison.missing:
        gaps.setdefault((gap.cell, f"{gap.reason} ({gap.verdict})"), []).append(gap.measurement)
    missing = [f"{cell} {', '.join(names)}: {why}" for (cell, why), names in gaps.items()]
    why = [f"{_name(alike)}: {reason}" for reason, alike in reasons.items()]
    return [why, refused, missing, list(comparison.flags)]


def _summarise(comparison: Comparison) -> str:
    total = _count(Counter(one.verdict for one in comparison.compared))
    return f"{comparison.verdict}: {total or 'nothing was comparable'}"


def _count(counts: Counter[Any]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


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
