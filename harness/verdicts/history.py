"""One value over time: segments of comparable observations, and where its level changed. Pure.

The level between two change points is constant, the noise unknown. All segmentations with up to k
change points are found exactly (kernel change-point detection with the linear kernel: Arlot,
Celisse and Harchaoui, "A kernel multiple change-point algorithm via model selection", JMLR 20,
2019; the library is `ruptures`: Truong, Oudre and Vayatis, Signal Processing 167, 2020). Their
number is the k with the largest

    m · ln(C_0 / C_k) − PENALTY · k,   C_k: the sum of squares around the k + 1 levels

the likelihood of levels with normal noise of unknown spread less a price per change (Lavielle,
"Using penalized contrasts for the change-point problem", Signal Processing 85, 2005). Nothing in
it has a scale, so its false alarms on noise depend on the number of observations alone.

Nights resemble the night before: m = n (1 − ρ) / (1 + ρ) is how many independent ones n of them are
worth (Bayley and Hammersley, JRSS Supplement 8, 1946). Some nights are far off: a Hampel filter
replaces them by the median of those around them (Hampel, JASA 69, 1974).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median
from typing import Any, Literal

from harness.descriptions import Margin
from harness.errors import InputError
from harness.records.identity import list_differing
from harness.statistics.drift import find_drift
from harness.statistics.outliers import find_outliers, find_width

# At this price at most 1 of 20 histories of 6 to 90 nights has a change point by chance, with a
# correlation of up to 0.7 between nights or every tenth night slow: tests/verdicts/test_history.py.
PENALTY = 17.0
ACCEPTED = "accepted"  # among a segment's ``changed``: a person meant the change
FEWEST_OBSERVATIONS = 4
_SHORTEST_LEVEL = 2  # observations: a level that is seen once is an outlier
_OBSERVATIONS_PER_CHANGE, _MOST_CHANGES = 6, 12
_FEWEST_CORRELATED = 8  # observations: fewer do not show their correlation
_LARGEST_CORRELATION = 0.9
_ROUNDING = 1e-6  # relative: what the order of sums may change


@dataclass(frozen=True)
class Observation:
    """One measurement of a value.

    ``identity`` must stay the same within a segment; ``conditions`` may differ and may explain a
    change. ``run`` is the id of the run it was measured in.
    """

    run: str
    utc: str
    sha: str | None
    dirty: bool | None
    value: float
    identity: Mapping[str, Any]
    conditions: Mapping[str, Any]


@dataclass(frozen=True)
class ChangePoint:
    """The level changed with ``observation``; ``before`` and ``after`` are the levels' medians."""

    observation: Observation
    previous: Observation
    before: float
    after: float

    @property
    def change(self) -> float | None:
        """Relative; None from a level of 0."""
        return (self.after - self.before) / abs(self.before) if self.before else None

    @property
    def changed(self) -> tuple[str, ...]:
        """The conditions that differ from those of the previous observation."""
        return list_differing(self.previous.conditions, self.observation.conditions)

    @property
    def same_commit(self) -> bool:
        """Whether the code cannot be the reason: both ran the same clean commit."""
        a, b = self.previous, self.observation
        return b.sha is not None and a.sha == b.sha and not (a.dirty or b.dirty)


@dataclass(frozen=True)
class Tendency:
    """A change over ``runs`` observations; ``more`` of them decide whether it is one, if not 0."""

    before: float
    after: float
    runs: int
    more: int = 0


@dataclass(frozen=True)
class Segment:
    """Comparable observations; ``changed`` is the identity's fields that differ from before.

    ``possible`` is a level that the newest observations may have begun, ``drift`` a change that no
    single observation shows.
    """

    observations: tuple[Observation, ...]
    change_points: tuple[ChangePoint, ...]
    outliers: tuple[Observation, ...]
    changed: tuple[str, ...] = ()
    possible: Tendency | None = None
    drift: Tendency | None = None


@dataclass(frozen=True)
class Series:
    """One value of one cell on one device, oldest observation first."""

    suite: str
    device: str
    cell: str
    metric: str
    unit: str
    better: Literal["lower", "higher"] | None
    margin: Margin | None
    segments: tuple[Segment, ...]

    @property
    def has_change_points(self) -> bool:
        """Whether the level changed at all."""
        return any(segment.change_points for segment in self.segments)

    @property
    def is_notable(self) -> bool:
        """Whether a segment's levels are farther apart than the margin (if there is one).

        Or may be: by what the newest runs or a drift show.
        """
        levels = (
            [one.change_points[0].before, *(point.after for point in one.change_points)]
            for one in self.segments
            if one.change_points
        )
        margin = self.margin
        far = any(margin is None or max(x) - min(x) > margin.of(x[0]) for x in levels)
        return far or bool(self.tendencies)

    @property
    def tendencies(self) -> tuple[Tendency, ...]:
        """What is possible now, and the drift of the newest segment, if more than the margin."""
        newest, margin = self.segments[-1], self.margin or Margin()
        found = (one for one in (newest.possible, newest.drift) if one is not None)
        return tuple(x for x in found if abs(x.after - x.before) > margin.of(x.before))

    @property
    def got_worse(self) -> bool:
        """Whether the newest level is worse, by more than the margin, than the one before it.

        Or than the first of its segment: small steps add up, and so does a drift.
        """
        points = self.segments[-1].change_points
        margin = self.margin or Margin()
        drifts = (one for one in self.tendencies if not one.more)
        steps = (points and (points[-1], replace(points[-1], before=points[0].before)), drifts)
        return any(
            self.judge(step) == "worse" and abs(step.after - step.before) > margin.of(step.before)
            for group in steps
            for step in group
        )

    @property
    def is_short(self) -> bool:
        """Whether no segment has enough observations to show a change."""
        return all(len(one.observations) < FEWEST_OBSERVATIONS for one in self.segments)

    def judge(self, point: ChangePoint | Tendency) -> Literal["better", "worse", "changed"]:
        """What the change means, given the value's own direction."""
        if self.better is None:
            return "changed"
        return "better" if (point.after < point.before) == (self.better == "lower") else "worse"


def divide(
    observations: Sequence[Observation], logarithmic: bool, accepted: Collection[str] = ()
) -> tuple[Segment, ...]:
    """Observations (oldest first) cut into segments, each with its change points.

    ``logarithmic`` compares ratios instead of differences, as for speeds; values must be positive.
    ``accepted`` are beginnings of commits' hashes whose changes were meant: a segment begins with
    the first observation of each.
    """
    pairs = enumerate(pairwise(observations), start=1)
    changes = {i: d for i, (a, b) in pairs if (d := list_differing(a.identity, b.identity))}
    for commit in accepted:
        meant = [i for i, one in enumerate(observations) if (one.sha or "").startswith(commit)]
        if meant and meant[0]:
            changes[meant[0]] = (*changes.get(meant[0], ()), ACCEPTED)
    return tuple(
        _make_segment(observations[start:end], changes.get(start, ()), logarithmic)
        for start, end in pairwise([0, *sorted(changes), len(observations)])
    )


def find_change_points(values: Sequence[float]) -> list[int]:
    """The indices at which a new level starts, each level at least two values long.

    Raises `InputError` where ruptures is not installed.
    """
    if len(values) < FEWEST_OBSERVATIONS or len(set(values)) == 1:
        return []
    outliers = find_outliers(values)
    centre = median(values)
    levelled = [outliers.get(i, value) - centre for i, value in enumerate(values)]
    total = _sum_squares(levelled)
    if total == 0:
        return []
    count = len(values)
    most = max(1, min(_MOST_CHANGES, count // _OBSERVATIONS_PER_CHANGE))
    found = [[], *_segment(levelled, most)]

    def choose(worth: float) -> list[int]:
        def gain(starts: list[int]) -> float:
            left = math.fsum(_sum_squares(part) for part in _cut(levelled, starts))
            # Values that repeat exactly leave nothing: then the fewest change points win.
            return worth * math.log(total / max(left, 1e-12 * total)) - PENALTY * len(starts)

        return max(found, key=gain)

    starts = choose(count)
    rho = find_correlation(_cut(levelled, starts)) if starts else 0.0
    return choose(count * (1 - rho) / (1 + rho))


def find_correlation(levels: Sequence[Sequence[float]]) -> float:
    """Of neighbours within the levels, 0 to 0.9; 0 for fewer than 8 values.

    The lag-1 correlation of what is left around k levels is too low by (k (1 + ρ) + 2 ρ) / n
    (Kendall, Biometrika 41, 1954, for one level; each level takes as much), which is added.
    """
    count, k = sum(map(len, levels)), len(levels)
    rests = [[value - fmean(level) for value in level] for level in levels]
    squares = math.fsum(x * x for rest in rests for x in rest)
    if count < _FEWEST_CORRELATED or not squares:
        return 0.0
    seen = math.fsum(x * y for rest in rests for x, y in pairwise(rest)) / squares
    return min(max((count * seen + k) / (count - k - 2), 0.0), _LARGEST_CORRELATION)


def _make_segment(
    observations: Sequence[Observation], changed: tuple[str, ...], logarithmic: bool
) -> Segment:
    values = _round([one.value for one in observations])
    is_log = logarithmic and min(values) > 0
    scaled = [math.log(v) for v in values] if is_log else values
    starts = find_change_points(scaled)
    levels = [median(values[a:b]) for a, b in pairwise([0, *starts, len(values)])]
    change_points = tuple(
        ChangePoint(observations[start], observations[start - 1], before, after)
        for start, (before, after) in zip(starts, pairwise(levels), strict=True)
    )
    odd = find_outliers(scaled)
    drift = None
    if (ends := find_drift(scaled)) and _is_line(scaled, ends, _cut(scaled, starts)):
        before, after = (math.exp(end) if is_log else end for end in ends)
        drift = Tendency(before, after, len(values))
    return Segment(
        tuple(observations),
        change_points,
        tuple(observations[i] for i in odd),
        changed,
        _find_possible(values, odd, starts[-1] if starts else 0),
        drift,
    )


def _is_line(
    values: Sequence[float], ends: tuple[float, float], levels: Sequence[Sequence[float]]
) -> bool:
    """Whether a line leaves less than the levels do."""
    step = (ends[1] - ends[0]) / (len(values) - 1)
    left = math.fsum((value - ends[0] - step * i) ** 2 for i, value in enumerate(values))
    return left < math.fsum(_sum_squares(level) for level in levels)


def _find_possible(values: Sequence[float], odd: Collection[int], start: int) -> Tendency | None:
    """The newest values, two or more, if all are outliers to one side of the level from ``start``.

    Once they are most of those that the filter looks at, they are no outliers.
    """
    count = len(values)
    first = next((i + 1 for i in reversed(range(start, count)) if i not in odd), start)
    level, newest = median(values[start:first] or values), values[first:]
    one_side = len({value > level for value in newest}) == 1
    if len(newest) < _SHORTEST_LEVEL or first - start < FEWEST_OBSERVATIONS or not one_side:
        return None
    more = find_width(values) // 2 + 1 - len(newest)
    return Tendency(level, median(newest), len(newest), max(1, more))


def _round(values: Sequence[float]) -> list[float]:
    """Values that agree to six digits become equal: their difference is rounding."""
    rounded: list[float] = []
    for value in values:
        same = rounded and math.isclose(value, rounded[-1], rel_tol=_ROUNDING)
        rounded.append(rounded[-1] if same else value)
    return rounded


def _cut(values: Sequence[float], starts: Sequence[int]) -> list[Sequence[float]]:
    return [values[a:b] for a, b in pairwise([0, *starts, len(values)])]


def _sum_squares(values: Sequence[float]) -> float:
    """Around the mean; 0 for equal values, whatever their mean rounds to."""
    if len(set(values)) == 1:
        return 0.0
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _segment(values: Sequence[float], most: int) -> list[list[int]]:
    """For 1 to ``most`` change points, those with the least sum of squares around the levels."""
    try:
        import numpy as np
        from ruptures import KernelCPD
    except ImportError as error:
        raise InputError(
            "harness history needs ruptures, which has no release for this Python, or was not "
            f"installed with the harness: pip install ruptures ({error})"
        ) from error
    detector = KernelCPD(kernel="linear", min_size=_SHORTEST_LEVEL)
    detector.fit(np.array(values).reshape(-1, 1))
    detector.predict(n_bkps=most)  # finds those with fewer, too
    return [list(detector.predict(n_bkps=k))[:-1] for k in range(1, most + 1)]
