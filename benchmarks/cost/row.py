"""What something of ours took beside what it is held against, the target, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from peer.table import align

from harness.statistics.estimates import paired_ratio_interval

# What the target bounds: our seconds; ours as a share or a multiple of the base; what ours takes
# beyond the base, as a share of it; how far ours is from the base either way, as a share of it.
Figure = Literal["seconds", "share", "ratio", "beyond", "error"]


@dataclass(frozen=True)
class Cost:
    """Pairs of (base, ours), each from one round or one process; smaller is better."""

    what: str
    base_is: str
    unit: str
    base: tuple[float, ...]
    ours: tuple[float, ...]
    figure: Figure
    target: float | None = None

    @property
    def relative(self) -> list[float]:
        """Ours beside the base, pair by pair, as ``figure`` says."""
        ratios = [ours / base for base, ours in zip(self.base, self.ours, strict=True)]
        if self.figure in ("seconds", "share", "ratio"):
            return ratios
        beyond = [ratio - 1 for ratio in ratios]
        return beyond if self.figure == "beyond" else [abs(x) for x in beyond]

    @property
    def spread(self) -> tuple[float, float, float]:
        """The middle, low and high of `relative`.

        For ``beyond``, where small differences count, the geometric mean over processes with its
        95 % interval; else median, smallest and largest.
        """
        pairs = self.relative
        if self.figure == "beyond" and len(pairs) > 1:
            found = paired_ratio_interval(self.base, self.ours)
            return found.value - 1, found.low - 1, found.high - 1
        return median(pairs), min(pairs), max(pairs)

    @property
    def verdict(self) -> str:
        """Of the median of our seconds, of the whole interval, or else of the median."""
        if self.target is None:
            return ""
        middle, low, high = self.spread
        if self.figure == "beyond":
            if low <= self.target < high:
                return "undecided"
            return "met" if high <= self.target else "NOT MET"
        reached = median(self.ours) if self.figure == "seconds" else middle
        return "met" if reached <= self.target else "NOT MET"

    def describe(self) -> dict[str, Any]:
        """For the results file: every sample, and what follows from them."""
        middle, low, high = self.spread
        relative = {"middle": middle, "low": low, "high": high}
        return {**asdict(self), "relative": relative, "verdict": self.verdict}


def format_costs(costs: Sequence[Cost]) -> str:
    """One row per cost: medians of both sides, the relative figure with its spread, the target."""
    rows = [("", "ours", "beside", "", "relative", "(from to)", "target", "")]
    for cost in costs:
        form = {"beyond": "{:+.2%}", "ratio": "{:.2f}×"}.get(cost.figure, "{:.2%}")
        middle, low, high = map(form.format, cost.spread)
        rows.append(
            (
                cost.what,
                _with_unit(median(cost.ours), cost.unit),
                _with_unit(median(cost.base), cost.unit),
                cost.base_is,
                middle,
                f"({low} to {high})",
                _name_target(cost),
                cost.verdict,
            )
        )
    return align(rows)


def _name_target(cost: Cost) -> str:
    if cost.target is None:
        return ""
    if cost.figure == "ratio":
        return f"< {cost.target:g}×"
    return f"< {cost.target:g} s" if cost.figure == "seconds" else f"< {cost.target:.0%}"


def _with_unit(number: float, unit: str) -> str:
    if unit == "bytes":
        return f"{number / 2**20:,.1f} MiB"
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
