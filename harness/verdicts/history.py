"""A value over the nights it was measured: the stretches it belongs to, and where it shifted. Pure.

The level between two shifts is constant, the noise is not known. All segmentations with up to k
shifts are found exactly (kernel change-point detection with the linear kernel: Arlot, Celisse and
Harchaoui, "A kernel multiple change-point algorithm via model selection", JMLR 20, 2019; the
library is `ruptures`: Truong, Oudre and Vayatis, Signal Processing 167, 2020), and the number of
shifts is the k that is largest in

    n · ln(C_0 / C_k) − PENALTY · k,   C_k: the sum of squares around the k + 1 levels

the likelihood of levels with normal noise of unknown spread less a price per shift (Lavielle,
"Using penalized contrasts for the change-point problem", Signal Processing 85, 2005). Nothing in
it has a scale, so that its false alarms on noise depend on the number of nights alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any, Literal

from harness.descriptions import Margin
from harness.errors import InputError

# Of 10,000 histories of normal noise, 0.4 to 1.9 % have a shift at this price (30 and 6 nights).
PENALTY = 15.0
FEWEST_NIGHTS = 4
_STAYS = 2  # nights: a level that is there once is an outlier
_NIGHTS_PER_SHIFT, _MOST_SHIFTS = 6, 12
_OUTLIER = 4.0  # standard deviations from its neighbours
_ROUNDING = 1e-6  # relative: what the order of sums may change
_NORMAL = 1.4826  # the standard deviation of normal noise over its median absolute deviation


@dataclass(frozen=True)
class Night:
    """One measurement of a value.

    ``identity`` is what must not change along a stretch, ``conditions`` what may and may explain a
    shift; ``run`` is the id of the run it was measured in.
    """

    run: str
    utc: str
    sha: str | None
    dirty: bool | None
    value: float
    identity: Mapping[str, Any]
    conditions: Mapping[str, Any]


@dataclass(frozen=True)
class Shift:
    """A change of level that came with ``night``, and what else is new since ``previous``.

    ``before`` and ``after`` are medians of the levels' nights.
    """

    night: Night
    previous: Night
    before: float
    after: float

    @property
    def change(self) -> float | None:
        """Relative; None from a level of 0."""
        return (self.after - self.before) / abs(self.before) if self.before else None

    @property
    def changed(self) -> tuple[str, ...]:
        """The conditions that are others than the night before."""
        return list_differing(self.previous.conditions, self.night.conditions)

    @property
    def same_commit(self) -> bool:
        """Whether the code cannot be the reason: both nights ran the same clean commit."""
        nights = (self.previous, self.night)
        known = self.night.sha is not None and not any(night.dirty for night in nights)
        return known and self.previous.sha == self.night.sha


@dataclass(frozen=True)
class Stretch:
    """Nights that may be compared; ``changed`` is what differs from the stretch before."""

    nights: tuple[Night, ...]
    shifts: tuple[Shift, ...]
    outliers: tuple[Night, ...]
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One value of one cell on one device, oldest night first."""

    suite: str
    device: str
    cell: str
    metric: str
    unit: str
    better: Literal["lower", "higher"] | None
    margin: Margin | None
    stretches: tuple[Stretch, ...]

    @property
    def has_shifts(self) -> bool:
        """Whether the level shifted at all."""
        return any(stretch.shifts for stretch in self.stretches)

    @property
    def is_notable(self) -> bool:
        """Whether the shifts of a stretch, each or together, leave the margin (if there is one)."""
        return any(_leave_margin(stretch, self.margin) for stretch in self.stretches)

    @property
    def is_short(self) -> bool:
        """Whether no stretch has enough nights to show a shift."""
        return all(len(stretch.nights) < FEWEST_NIGHTS for stretch in self.stretches)

    def judge(self, shift: Shift) -> Literal["better", "worse", "changed"]:
        """What the shift means for who wants the value low or high."""
        if self.better is None:
            return "changed"
        return "better" if (shift.after < shift.before) == (self.better == "lower") else "worse"


def divide(nights: Sequence[Night], logarithmic: bool) -> tuple[Stretch, ...]:
    """Stretches of ``nights`` (oldest first), each with its shifts.

    ``logarithmic`` judges ratios, as of speeds, where all values are positive.
    """
    stretches = []
    start = 0
    changed: tuple[str, ...] = ()
    for end in range(1, len(nights) + 1):
        differing = (
            list_differing(nights[end - 1].identity, nights[end].identity)
            if end < len(nights)
            else ()
        )
        if differing or end == len(nights):
            stretches.append(_make_stretch(nights[start:end], changed, logarithmic))
            start, changed = end, differing
    return tuple(stretches)


def find_shifts(values: Sequence[float]) -> list[int]:
    """The indices at which a new level starts, each level at least two values long.

    Raises `InputError` where ruptures is not installed.
    """
    if len(values) < FEWEST_NIGHTS or len(set(values)) == 1:
        return []
    spikes = find_outliers(values)
    centre = median(values)
    levelled = [spikes.get(i, value) - centre for i, value in enumerate(values)]
    total = _scatter(levelled)
    if total == 0:
        return []
    count = len(values)
    best: list[int] = []
    best_gain = 0.0
    for segmentation in _segment(levelled, max(1, min(_MOST_SHIFTS, count // _NIGHTS_PER_SHIFT))):
        ends = [*segmentation, count]
        left = math.fsum(_scatter(levelled[a:b]) for a, b in zip([0, *ends], ends))
        # Values that repeat exactly leave nothing: the fewest shifts that do so are taken.
        gain = count * math.log(total / max(left, 1e-12 * total)) - PENALTY * len(segmentation)
        if gain > best_gain:
            best, best_gain = segmentation, gain
    return best


def find_outliers(values: Sequence[float]) -> dict[int, float]:
    """The indices of lone values far from both neighbours, with the value to take instead.

    A Hampel filter of three values: the median of a value and its neighbours (at an end, of the
    last three) replaces one more than 4 standard deviations away; those are told from the
    differences of neighbours, which a shift of the level leaves alone.
    """
    if len(values) < 3:
        return {}
    steps = [abs(b - a) for a, b in pairwise(values)]
    reach = _OUTLIER * _NORMAL * median(steps) / math.sqrt(2)
    found = {}
    for i, value in enumerate(values):
        first = min(max(i - 1, 0), len(values) - 3)
        middle = median(values[first : first + 3])
        if abs(value - middle) > reach:
            found[i] = middle
    return found


def list_differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys, sorted, whose values differ; a key that is not there is None."""
    keys = sorted({*before, *after})
    return tuple(key for key in keys if before.get(key) != after.get(key))


def _make_stretch(nights: Sequence[Night], changed: tuple[str, ...], logarithmic: bool) -> Stretch:
    values = _round([night.value for night in nights])
    scaled = [math.log(v) for v in values] if logarithmic and min(values) > 0 else values
    starts = find_shifts(scaled)
    bounds = [0, *starts, len(values)]
    levels = [median(values[a:b]) for a, b in pairwise(bounds)]
    shifts = tuple(
        Shift(nights[start], nights[start - 1], before, after)
        for start, before, after in zip(starts, levels, levels[1:])
    )
    outliers = tuple(nights[i] for i in find_outliers(scaled))
    return Stretch(tuple(nights), shifts, outliers, changed)


def _leave_margin(stretch: Stretch, margin: Margin | None) -> bool:
    if not stretch.shifts:
        return False
    levels = [stretch.shifts[0].before, *(shift.after for shift in stretch.shifts)]
    return margin is None or max(levels) - min(levels) > margin.of(levels[0])


def _round(values: Sequence[float]) -> list[float]:
    """Values equal to six digits become equal: the rest is rounding."""
    rounded: list[float] = []
    for value in values:
        same = rounded and math.isclose(value, rounded[-1], rel_tol=_ROUNDING)
        rounded.append(rounded[-1] if same else value)
    return rounded


def _scatter(values: Sequence[float]) -> float:
    """The sum of squares around the mean, 0 for equal values whatever their mean rounds to."""
    if len(set(values)) == 1:
        return 0.0
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _segment(values: Sequence[float], most: int) -> list[list[int]]:
    """For 1 to ``most`` shifts, where they are with the least sum of squares around the levels."""
    try:
        import numpy as np
        from ruptures import KernelCPD
    except ImportError as error:
        raise InputError(
            "harness history needs ruptures, which has no release for this Python, or was not "
            f"installed with the harness: pip install ruptures ({error})"
        ) from error
    detector = KernelCPD(kernel="linear", min_size=_STAYS)
    detector.fit(np.array(values).reshape(-1, 1))
    detector.predict(n_bkps=most)  # finds those with fewer, too
    return [list(detector.predict(n_bkps=k))[:-1] for k in range(1, most + 1)]
