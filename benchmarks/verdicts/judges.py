"""The harness's own ways to a verdict, each asked about runs of a simulated world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from numpy.random import Generator

from harness.catalog import load_measurement
from harness.errors import InputError
from harness.records.record import Record, Verdict
from harness.run.ab import Sample, compare_sides
from harness.suite.models import Limit
from harness.verdicts.bless import bless
from harness.verdicts.compare import Compared, compare_runs
from harness.verdicts.limits import judge_limits
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Thresholds
from verdicts.worlds import World, as_run

_WORST = ("FAIL", "INCONCLUSIVE", "PASS")


@dataclass(frozen=True)
class Judged:
    """The worst outcome of a run's values.

    ``smallest`` is the harm it says it would see, ``enough`` how many samples it says would decide
    if nothing changed.
    """

    outcome: str
    smallest: float | None = None
    enough: int | None = None


@dataclass(frozen=True)
class Judge:
    """``ask`` judges one simulated comparison, in which the later run is worse by a harm."""

    name: str
    ask: Callable[[World, Generator, float], Judged]


def compare_once(world: World, rng: Generator, harm: float) -> tuple[Compared, ...]:
    """A later run against the first, by `harness compare`."""
    first, draw = world.begin(rng)
    return compare_records_of([first], [draw(harm)])


def compare_records_of(
    before: Sequence[Record], after: Sequence[Record], apart: bool = False
) -> tuple[Compared, ...]:
    """`compare_runs` of simulated records, none of which may be refused; ``apart``: by a night."""
    found = compare_runs(as_run(*before), as_run(*after, number=int(apart)))
    if found.refused or found.missing or not found.compared:
        raise ValueError(f"simulated runs were not compared: {found.refused or found.missing}")
    return found.compared


def _ask_compare(world: World, rng: Generator, harm: float) -> Judged:
    compared = compare_once(world, rng, harm)
    judged = _worst((one.verdict, one.smallest_detectable) for one in compared)
    [one] = compared[:1]
    return replace(judged, enough=one.enough if "nothing changed" in one.reason else None)


COMPARE = Judge("compare", _ask_compare)


def _ask_later(world: World, rng: Generator, harm: float) -> Judged:
    first, draw = world.begin(rng)
    found = compare_records_of([first], [draw(harm)], apart=True)
    return _worst((one.verdict, one.smallest_detectable) for one in found)


COMPARE_NIGHTS = Judge("compare, a night later", _ask_later)


def limit_judge(metric: str, side: Literal["max", "min"], bound: float) -> Judge:
    """A suite's limit on the later run; the first is its reference."""
    limit = Limit.model_validate(
        {"precision": ("nf4",), "model": ("m",), "metric": metric, side: bound}
    )
    spec = load_measurement(limit.family).values[limit.value]
    neutral = spec.neutral if spec.paired else bound

    def ask(world: World, rng: Generator, harm: float) -> Judged:
        verdicts = judge_by_limits([limit], *draw_pair(world, rng, harm))
        return _worst((v.verdict, _distance(v.smallest_detectable, neutral)) for v in verdicts)

    return Judge(f"limit {side} {bound:g}", ask)


def draw_pair(world: World, rng: Generator, harm: float) -> tuple[Record, Record]:
    """A later run, and the first as its reference."""
    first, draw = world.begin(rng)
    return draw(harm), first


def judge_by_limits(limits: Sequence[Limit], later: Record, first: Record) -> tuple[Verdict, ...]:
    """The verdicts of those of a suite's limits that are on this record."""
    paired = load_measurement(later.measurement).compare(later, first)
    return judge_limits(limits, later.model_copy(update={"paired": paired}), first, "")


def thresholds_judge(runs: int) -> Judge:
    """The later run by thresholds that were blessed from so many.

    Where processes disagree too much to be blessed they are measured again, as a person would.
    """

    def ask(world: World, rng: Generator, harm: float) -> Judged:
        _, draw = world.begin(rng)
        verdicts: list[Verdict] = []
        while not verdicts:
            with suppress(InputError):
                verdicts = judge_blessed([[draw(0.0)] for _ in range(runs)], [draw(harm)])
        return _worst((v.verdict, _scaled(v.smallest_detectable, world.scale)) for v in verdicts)

    return Judge(f"thresholds of {runs} run{'s' * (runs > 1)}", ask)


def judge_blessed(blessed: Sequence[Sequence[Record]], records: Sequence[Record]) -> list[Verdict]:
    """Each record by thresholds that were blessed from runs of the same."""
    runs = [as_run(*one, number=number) for number, one in enumerate(blessed)]
    made: Thresholds = bless(runs, "cpu", None, "calibration", "2026-01-01").thresholds
    return [verdict for record in records for verdict in judge_thresholds(made, {}, record)]


def ask_ab(world: World, rng: Generator, harm: float, pairs: int, drift: float) -> Judged:
    """`harness ab`'s ratio of pairs; FAIL where it calls side A the better one.

    Both sides of a pair share a luck of ``drift``, as what happens over minutes.
    """
    samples = []
    _, draw = world.begin(rng)
    for pair in range(pairs):
        luck = rng.normal(0, drift)
        for side, worse in (("A", 0.0), ("B", harm)):
            record = draw(1 - (1 - worse) * (1 + luck))
            samples.append(Sample(pair, "A" if side == "A" else "B", record, "", {}, {}))
    [ratio] = compare_sides(samples)
    return Judged("FAIL" if ratio.better_side == "A" else "PASS")


def _worst(found: Iterable[tuple[str, float | None]]) -> Judged:
    outcomes, smallest = zip(*found)
    worst = next((one for one in _WORST if one in outcomes), outcomes[0])
    return Judged(worst, smallest[0])


def _distance(value: float | None, neutral: float | None) -> float | None:
    return None if value is None or neutral is None else abs(value - neutral)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale
