"""How often something happened in many tries, what it is held against, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from peer.table import align

from harness.statistics.shares import share_interval, wilson

_SURE = NormalDist().inv_cdf(0.99)


@dataclass(frozen=True)
class Share:
    """``count`` of ``n`` tries, by the rule ``judge``; a target is ``at_most`` or ``at_least``."""

    judge: str
    world: str
    what: str
    count: int
    n: int
    at_most: float | None = None
    at_least: float | None = None

    @property
    def verdict(self) -> str:
        """NOT MET where the one-sided 99 % bound misses the target as well.

        ``at it`` where only chance separates the two: a rule made for exactly 80 % is seen above
        and below it in half of all simulations each.
        """
        value, (lower, upper) = self.count / self.n, wilson(self.count, self.n, _SURE)
        if self.at_most is not None:
            sure, met = lower > self.at_most, value <= self.at_most
        elif self.at_least is not None:
            sure, met = upper < self.at_least, value >= self.at_least
        else:
            return ""
        return "met" if met else "NOT MET" if sure else "at it"

    def describe(self) -> dict[str, Any]:
        """For the results file."""
        found = share_interval(self.count, self.n)
        return {
            **asdict(self),
            "share": found.value,
            "interval": (found.low, found.high),
            "verdict": self.verdict,
        }


def format_shares(shares: Sequence[Share]) -> str:
    """One row per share, with its 95 % interval and its target."""
    rows = [("", "", "", "share", "(95 %)", "target", "")]
    for share in shares:
        found = share_interval(share.count, share.n)
        rows.append(
            (
                share.judge,
                share.world,
                share.what,
                f"{found.value:.1%}",
                f"({found.low:.1%} to {found.high:.1%})",
                _name_target(share),
                share.verdict,
            )
        )
    return align(rows)


def _name_target(share: Share) -> str:
    if share.at_most is not None:
        return f"≤ {share.at_most:.0%}"
    return "" if share.at_least is None else f"≥ {share.at_least:.0%}"
