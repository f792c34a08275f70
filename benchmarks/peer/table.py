"""Ratios of paired processes, what they are to reach, and the table that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """Lm-eval over us, one number per pair of processes: above 1 is faster, or smaller."""

    what: str
    unit: str
    theirs: tuple[float, ...]
    ours: tuple[float, ...]
    target: float | None = None

    @property
    def pairs(self) -> list[float]:
        return [a / b if b else float("inf") for a, b in zip(self.theirs, self.ours, strict=True)]

    @property
    def met(self) -> bool:
        """The median pair reaches the target."""
        return self.target is None or median(self.pairs) >= self.target

    def describe(self) -> dict[str, Any]:
        """For the results file: every sample, and what follows from them."""
        pairs = self.pairs
        return {
            **asdict(self),
            "ratio": {"median": median(pairs), "min": min(pairs), "max": max(pairs)},
            "met": self.met,
        }


@dataclass(frozen=True)
class Agreement:
    """A number that both sides give; ``tolerance`` is relative."""

    what: str
    theirs: float
    ours: float
    tolerance: float

    @property
    def met(self) -> bool:
        return abs(self.ours - self.theirs) <= self.tolerance * abs(self.theirs)

    def describe(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def format_ratios(ratios: Sequence[Ratio]) -> str:
    """One row per ratio: medians of both sides, the ratio with its spread, the target."""
    rows = [("", "lm-eval", "ours", "ratio", "(min to max)", "target", "")]
    for ratio in ratios:
        pairs = ratio.pairs
        rows.append(
            (
                ratio.what,
                _with_unit(median(ratio.theirs), ratio.unit),
                _with_unit(median(ratio.ours), ratio.unit),
                f"{median(pairs):.2f}×",
                f"({min(pairs):.2f} to {max(pairs):.2f})",
                "" if ratio.target is None else f"{ratio.target:g}×",
                "" if ratio.target is None else "met" if ratio.met else "NOT MET",
            )
        )
    return align(rows)


def format_agreements(agreements: Sequence[Agreement]) -> str:
    """One row per number that both sides give."""
    rows = [("", "lm-eval", "ours", "within", "")]
    for a in agreements:
        verdict = "met" if a.met else "NOT MET"
        rows.append((a.what, f"{a.theirs:.6g}", f"{a.ours:.6g}", f"{a.tolerance:g}", verdict))
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _with_unit(number: float, unit: str) -> str:
    return f"{number / 2**20:,.0f} MiB" if unit == "bytes" else f"{number:.2f} {unit}"
