"""Two runs compared, or a run judged by thresholds: for a person, and for a program."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from harness.records.record import Verdict
from harness.report.document import Document, Lines, Part, make_table
from harness.verdicts.compare import Compared, Comparison
from harness.verdicts.wording import describe_refusal, show_change, show_numbers, show_size

_TITLES = (
    *("cell", "value", "verdict", "A", "B", "change", "95 % interval", "margin", "seen from", "q"),
)
_WORDS = ("cell", "value", "verdict")
_ORDER = ("FAIL", "INCONCLUSIVE", "PASS")


def show_comparison(
    a: str, b: str, comparison: Comparison, ledgers: Iterable[Part] = ()
) -> Document:
    """A row per value that is not identical, the worst first; then reasons, and the sum of it.

    ``a`` and ``b`` are what the two runs are called.
    """
    rows = [_make_row(one) for one in _sort_worst_first(comparison)]
    table = [make_table(_TITLES, rows, _WORDS, keys=3)] if rows else []
    counted = _count(one.verdict for one in comparison.compared) or "nothing was comparable"
    gaps = [f"{n} not comparable" for n in [len(comparison.refused)] if n and comparison.compared]
    gaps += [f"{n} missing" for n in [len(comparison.missing)] if n]
    counted = ", ".join([counted, *gaps])
    paragraphs = [*_explain(comparison), [f"{comparison.verdict}: {counted}"]]
    explained = [Lines(tuple(lines)) for lines in paragraphs if lines]
    return Document("", (Lines((f"A: {a}", f"B: {b}")), *table, *explained, *ledgers))


def dump_comparison(
    a: str, b: str, comparison: Comparison, flips: Sequence[object]
) -> dict[str, Any]:
    """The same as plain data, with the ledgers of flips."""
    return {
        "a": a,
        "b": b,
        "verdict": comparison.verdict,
        "compared": [{**asdict(one), "improved": one.improved} for one in comparison.compared],
        "refused": [asdict(one) for one in comparison.refused],
        "missing": [asdict(one) for one in comparison.missing],
        "flags": list(comparison.flags),
        "flips": list(flips),
    }


def show_judged(thresholds: str, run: str, verdicts: Sequence[Verdict]) -> Document:
    """A sentence for each value that is worse or open, and the number of verdicts of each kind."""
    worse = [verdict.text for verdict in verdicts if verdict.verdict != "PASS"]
    counts = _count(verdict.verdict for verdict in verdicts)
    return Document("", (Lines((f"thresholds: {thresholds}", f"run: {run}", *worse, counts)),))


def _make_row(one: Compared) -> tuple[str, ...]:
    change, ends, smallest = one.change, one.interval, one.smallest_detectable
    sides = [side for side in (one.a, one.b) if side is not None]
    if not one.is_ratio and ((one.b or 0) - (one.a or 0)) * change < 0:
        # A drop is shown as every other column shows it: B less A.
        change, ends = -change, ends and (-ends[1], -ends[0])
    return (
        one.cell,
        f"{one.measurement}.{one.value}",
        "PASS, better" if one.verdict == "PASS" and one.improved else one.verdict,
        *(show_numbers(sides, one.unit) if len(sides) == 2 else ("—", "—")),
        show_change(change, one.is_ratio),
        "—" if ends is None else " to ".join(show_change(end, one.is_ratio) for end in ends),
        show_size(one.margin, one.is_ratio),
        "—" if smallest is None else show_size(smallest, one.is_ratio),
        "—" if one.q is None else f"{one.q:.2g}",
    )


def _explain(comparison: Comparison) -> list[list[str]]:
    """What the table does not hold: reasons, refusals, gaps and what was allowed."""
    reasons: dict[str, list[str]] = {}
    deciders: dict[str, str] = {}
    for one in comparison.compared:
        if one.reason:
            if one.verdict == "INCONCLUSIVE" and one.decider:
                deciders.setdefault(one.reason, f"; to decide: {one.decider}")
            reasons.setdefault(one.reason, []).append(f"{one.cell} {one.measurement}.{one.value}")
    why = [f"{_name_first(n)}: {r}{deciders.get(r, '')}" for r, n in reasons.items()]
    refused = [
        describe_refusal(f"{one.cell} {one.measurement}", "A", one.differences, one.values)
        for one in comparison.refused
    ]
    suspects: dict[str, list[str]] = {}
    for one in _sort_worst_first(comparison):
        if one.suspects:
            about = f"{one.cell} {one.measurement}.{one.value} {one.verdict}"
            suspects.setdefault(one.suspects.removeprefix("; "), []).append(about)
    changed = [f"{_name_first(names)}: {text}" for text, names in suspects.items()]
    gaps: dict[tuple[str, str], list[str]] = {}
    for gap in comparison.missing:
        gaps.setdefault((gap.cell, f"{gap.reason} ({gap.verdict})"), []).append(gap.measurement)
    missing = [f"{cell} {', '.join(names)}: {reason}" for (cell, reason), names in gaps.items()]
    return [why, changed, refused, missing, list(comparison.flags)]


def _sort_worst_first(comparison: Comparison) -> list[Compared]:
    """What is not identical."""
    shown = [one for one in comparison.compared if one.verdict != "IDENTICAL"]
    return sorted(shown, key=lambda one: _ORDER.index(one.verdict))


def _name_first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _count(verdicts: Iterable[str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(Counter(verdicts).items()))
