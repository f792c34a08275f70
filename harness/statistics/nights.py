"""How a suite's speeds vary from process to process and from night to night. Pure.

All speeds are logarithms, all spreads shares. Processes of one night share its luck: the night is
the sample, however many runs of the suite it has. Part of its luck is shared by all speeds of the
machine; three nights say little of that part, however many speeds there are. The rest is each
speed's own, and is moderated over the suite's speeds (`harness.statistics.moderated`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from statistics import fmean, median

from harness.statistics.estimates import Processes, t_quantile
from harness.statistics.moderated import UNKNOWN, Prior, fit_prior, is_outlier, squeeze

ENOUGH_NIGHTS = 3
_SAME_NIGHT = timedelta(hours=12)
# Of fewer speeds nothing can be said of what they share.
_ENOUGH_SPEEDS = 5


@dataclass(frozen=True)
class Blessed:
    """One speed as it was measured: ``mean`` is the logarithm of its geometric mean.

    ``by_night`` maps a night to the logarithm of its speed, each of ``n`` / nights processes;
    ``spread`` is that of processes within a night, None where each had one.
    """

    mean: float
    spread: float | None
    n: int
    by_night: Mapping[str, float]

    @property
    def nights(self) -> int:
        """How many there were."""
        return max(1, len(self.by_night))

    @property
    def within_df(self) -> int:
        """Degrees of freedom of ``spread``."""
        return 0 if self.spread is None else self.n - self.nights


@dataclass(frozen=True)
class Nights:
    """``process``: variance of one process; ``own``: of one speed's night, less what all share.

    ``shared`` is the variance of what all share; ``shifts`` are what each night's speeds shared.
    """

    process: Prior = UNKNOWN
    own: Prior = UNKNOWN
    shared: float = 0.0
    shifts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """ln(now / blessed), its one-sided 95 % bounds, and how sure a fall or a rise is.

    ``stderr`` with ``df`` degrees of freedom is that of the speed's own part; ``allowance`` is what
    a night may shift all speeds by, to either side, with the confidence that was asked for.
    """

    estimate: float
    lower: float
    upper: float
    stderr: float
    df: float
    allowance: float = 0.0


def find_nights(utcs: Sequence[str]) -> list[str]:
    """The night of each run, named by its first run's time.

    A run at most twelve hours after another is of the same night. Raises ValueError for what is no
    time in ISO 8601.
    """
    times = {utc: datetime.fromisoformat(utc).astimezone(timezone.utc) for utc in utcs}
    nights: dict[str, str] = {}
    last = night = ""
    for utc in sorted(times, key=times.__getitem__):
        if not last or times[utc] - times[last] > _SAME_NIGHT:
            night = utc
        nights[utc], last = night, utc
    return [nights[utc] for utc in utcs]


def merge_runs(runs: Sequence[Processes]) -> Processes:
    """Runs of one night as one sample of its processes."""
    if len(runs) == 1:
        return runs[0]
    logs, n = [math.log(run.mean) for run in runs], sum(run.n for run in runs)
    within = math.fsum((run.n - 1) * (run.spread or 0.0) ** 2 for run in runs)
    between = math.fsum(run.n * (log - fmean(logs)) ** 2 for run, log in zip(runs, logs))
    return Processes(math.exp(fmean(logs)), math.sqrt((within + between) / (n - 1)), n)


def learn_nights(speeds: Sequence[Blessed]) -> Nights:
    """What all of a suite's speeds together say of its processes and nights."""
    process = _fit_commonest([(s.spread**2, s.within_df) for s in speeds if s.spread])
    rows = [speed for speed in speeds if speed.nights >= ENOUGH_NIGHTS]
    if len(rows) < _ENOUGH_SPEEDS:
        return Nights(process)
    nights = dict.fromkeys(night for row in rows for night in row.by_night)
    centres = [fmean(row.by_night.values()) for row in rows]
    shifts = {
        one: median(row.by_night[one] - c for row, c in zip(rows, centres) if one in row.by_night)
        for one in nights
    }
    own = _fit_commonest([(_own_variance(row, shifts), row.nights - 1) for row in rows])
    # The variance of a median of so many (π/2 times that of a mean) is no shared luck.
    chance = math.pi / 2 * own.variance / len(rows)
    return Nights(process, own, max(0.0, _variance([*shifts.values()]) - chance), shifts)


def compare_with_blessed(
    blessed: Blessed,
    now: Processes,
    nights: Nights,
    shared_confidence: float,
    error: float = 0.05,
) -> Change:
    """Tonight's processes against what was blessed.

    ``error`` is how often a bound may be wrong. With fewer than `ENOUGH_NIGHTS` blessed nights the
    spread is that of processes alone. Raises ValueError where nothing shows a spread.
    """
    estimate, k = math.log(now.mean) - blessed.mean, blessed.nights
    within = _squeeze_spread(blessed.spread, blessed.within_df, nights.process)
    is_odd = False
    if now.spread:
        is_odd = within is not None and is_outlier(now.spread**2, now.n - 1, *within)
        within = within if is_odd else _pool(within, (now.spread**2, now.n - 1))
    tonight = (now.spread**2, now.n - 1) if is_odd and now.spread else within
    if k < ENOUGH_NIGHTS:
        if within is None or tonight is None:
            raise ValueError("no spread between processes is known")
        if not is_odd:
            pooled = (within[0] * (1 / now.n + 1 / blessed.n), within[1])
            return _change(estimate, [pooled], 0.0, error)
        both = [(tonight[0] / now.n, tonight[1]), (within[0] / blessed.n, within[1])]
        return _change(estimate, both, 0.0, error)
    more = 1 + 1 / k
    own, df = squeeze(_own_variance(blessed, nights.shifts), k - 1, nights.own)
    # Fewer processes than on the blessed nights, or some that are far apart, add to a night's luck.
    usual = 0.0 if within is None else within[0] / (blessed.n / k)
    excess = 0.0 if tonight is None else max(0.0, tonight[0] / now.n - usual)
    parts_of_own = [(own * more + excess, df)]
    if not nights.shared:
        return _change(estimate, parts_of_own, 0.0, error)
    shared = nights.shared * more
    allowance = t_quantile(shared_confidence, k - 1) * math.sqrt(shared)
    return _change(estimate, parts_of_own, allowance, error, (shared, k - 1))


def _change(
    estimate: float,
    own: Sequence[tuple[float, float]],
    allowance: float,
    error: float,
    shared: tuple[float, float] | None = None,
) -> Change:
    """Satterthwaite's degrees of freedom of variances that add up."""
    stderr, df = _add_up(own)
    whole, whole_df = _add_up([*own, shared] if shared else own)
    reach = t_quantile(1 - error, whole_df) * whole
    return Change(estimate, estimate - reach, estimate + reach, stderr, df, allowance)


def _add_up(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    square = math.fsum(part for part, _ in parts)
    below = math.fsum(part**2 / df for part, df in parts)
    return math.sqrt(square), square**2 / below if below else parts[0][1]


def _pool(one: tuple[float, float] | None, other: tuple[float, float]) -> tuple[float, float]:
    """Two estimates of a variance as one, each with its degrees of freedom."""
    if one is None:
        return other
    df = one[1] + other[1]
    return (one[0] * one[1] + other[0] * other[1]) / df, df


def _squeeze_spread(spread: float | None, df: float, prior: Prior) -> tuple[float, float] | None:
    if spread is None:
        return (prior.variance, min(prior.df, prior.pooled)) if prior.df else None
    return squeeze(spread**2, df, prior)


def _own_variance(row: Blessed, shifts: Mapping[str, float]) -> float:
    left = [value - shifts.get(night, 0.0) for night, value in row.by_night.items()]
    return _variance(left)


def _variance(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _fit_commonest(found: Sequence[tuple[float, int]]) -> Prior:
    """The prior of variances that have the commonest degrees of freedom."""
    if not found:
        return UNKNOWN
    [(df, _)] = Counter(df for _, df in found).most_common(1)
    return fit_prior([square for square, own in found if own == df], df) if df else UNKNOWN
