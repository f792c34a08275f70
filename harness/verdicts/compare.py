"""Two runs of the same cells, value by value: IDENTICAL, PASS, FAIL or INCONCLUSIVE. Pure.

Joined by cell and measurement, and item by item where there are items. What may not be compared is
refused with the fields that differ; nothing that only one run has goes unsaid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.records.identity import Difference, find_differences, identify, list_outcomes
from harness.records.record import Record, Value
from harness.records.run_file import Run
from harness.records.values import base_name, bounds_of, smallest_effect
from harness.statistics.estimates import NORMAL_95, Outcome, benjamini_hochberg, judge_harm
from harness.statistics.power import samples_to_decide

# 3 % of two sides, so that equal speeds fail in less than 2 of 100 comparisons: at the usual 5 % it
# was 2.6 (benchmarks/calibration.py).
FALSE_DISCOVERY_RATE = 0.03
_NUMBER = re.compile(r"\d[\d.,]*")
_OTHERS = "other processes"  # how telemetry's flag of a busy machine begins


@dataclass(frozen=True)
class Compared:
    """One value of both runs. ``change`` is B beside A: a ratio, or a difference.

    ``margin`` and ``smallest_detectable`` are harms: shares of a ratio, else in the value's unit;
    ``p`` is unadjusted, ``q`` after Benjamini and Hochberg over all that was compared.
    """

    cell: str
    measurement: str
    value: str
    verdict: Outcome | Literal["IDENTICAL"]
    a: float | None
    b: float | None
    unit: str
    change: float
    is_ratio: bool
    interval: tuple[float, float] | None
    harm: float
    margin: float
    p: float | None = None
    q: float | None = None
    n: int | None = None
    smallest_detectable: float | None = None
    reason: str = ""

    @property
    def improved(self) -> bool:
        """Whether B is better by more than the margin."""
        return self.harm < -self.margin


@dataclass(frozen=True)
class Refused:
    """A measurement of both runs that may not be compared."""

    cell: str
    measurement: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Missing:
    """A measurement that one run has no number of; a loss where B failed at what A has."""

    cell: str
    measurement: str
    side: Literal["A", "B"]
    reason: str
    verdict: Literal["FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Comparison:
    """Everything about two runs; ``flags`` are the differences that were allowed."""

    compared: tuple[Compared, ...] = ()
    refused: tuple[Refused, ...] = ()
    missing: tuple[Missing, ...] = ()
    flags: tuple[str, ...] = ()
    pairs: tuple[tuple[Record, Record], ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Literal["FAIL", "INCOMPARABLE", "INCONCLUSIVE", "PASS"]:
        """The worst: a regression, then what was refused, then what was left open."""
        verdicts = {one.verdict for one in self.compared} | {one.verdict for one in self.missing}
        if "FAIL" in verdicts:
            return "FAIL"
        if self.refused or not self.compared:
            return "INCOMPARABLE"
        return "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


def compare_runs(a: Run, b: Run, allow: Collection[str] = ()) -> Comparison:
    """Run ``b`` against run ``a``. ``allow`` names fields that may differ, or their groups."""
    ours, theirs = _by_key(b.records), _by_key(a.records)
    compared: list[Compared] = []
    refused: list[Refused] = []
    missing: list[Missing] = []
    flags: dict[str, None] = {}
    pairs: list[tuple[Record, Record]] = []
    for key in dict.fromkeys((*theirs, *ours)):
        before, after = theirs.get(key), ours.get(key)
        found = compare_pair(a, before, b, after, key, allow)
        compared += found.compared
        refused += found.refused
        missing += found.missing
        flags |= dict.fromkeys(found.flags)
        pairs += found.pairs
    return Comparison(_adjust(compared), tuple(refused), tuple(missing), tuple(flags), tuple(pairs))


def compare_pair(
    a: Run,
    before: Record | None,
    b: Run,
    after: Record | None,
    key: tuple[str, str],
    allow: Collection[str] = (),
) -> Comparison:
    """One measurement of both runs, by itself: not weighed with others."""
    lost = _find_loss(key, before, after)
    missing = () if lost is None else (lost,)
    if before is None or after is None or not before.usable or not after.usable:
        return Comparison(missing=missing)
    sides = identify(a.environment, before).facts, identify(b.environment, after).facts
    differences = find_differences(*sides)
    stopping = tuple(one for one in differences if not _is_allowed(one.field, allow))
    flags = tuple(f"{d} was allowed to differ" for d in differences if d not in stopping)
    if stopping:
        return Comparison(refused=(Refused(*key, stopping),), missing=missing, flags=flags)
    values = compare_records(before, after)
    if not values and _is_judged(before):
        items = Difference("items", _count(before), _count(after))
        return Comparison(refused=(Refused(*key, (items,)),), missing=missing, flags=flags)
    return Comparison(
        tuple(values),
        missing=(*missing, *_find_lost_values(before, after)),
        flags=flags,
        pairs=((before, after),),
    )


def compare_records(before: Record, after: Record) -> list[Compared]:
    """The judged values of one measurement of both runs; ``q`` is still unknown."""
    module = load_measurement(before.measurement)
    same = is_identical(before, after)
    found = []
    paired = module.compare(after, before)
    for name, value in paired.items():
        spec: ValueSpec = module.values[base_name(name)]
        if spec.margin is None or spec.neutral is None or value.value is None:
            continue
        if base_name(name) != name and base_name(name) in paired:
            continue  # a subject's part of a total that is judged
        found.append(_compare_value(before, after, name, value, spec, same))
    return found


def is_identical(before: Record, after: Record) -> bool:
    """Whether every item has the same outcome in both; a record without items never is."""
    ours, theirs = (list_outcomes(record.items) for record in (before, after))
    return bool(ours) and ours == theirs


def _compare_value(
    before: Record, after: Record, name: str, value: Value, spec: ValueSpec, same: bool
) -> Compared:
    assert value.value is not None
    assert spec.neutral is not None
    assert spec.margin is not None
    of = f"{spec.of}{name.removeprefix(base_name(name))}" if spec.of else name
    a, b = (record.values.get(of, Value(value=None)) for record in (before, after))
    sign, is_ratio = 1 if spec.better == "lower" else -1, spec.neutral == 1
    harm = sign * (value.value - spec.neutral)
    margin = spec.margin.of(a.value or 0.0)
    if is_ratio:
        margin /= abs(a.value) if a.value else 1.0
    bounds = bounds_of(value, spec)
    made = Compared(
        cell=after.cell.id,
        measurement=after.measurement,
        value=of,
        verdict="IDENTICAL",
        a=a.value,
        b=b.value,
        unit=a.unit,
        change=value.value,
        is_ratio=is_ratio,
        interval=value.interval,
        harm=harm,
        margin=margin,
        p=value.p,
        n=value.n,
    )
    if same or (bounds is not None and harm == 0 and bounds[0] == bounds[1]):
        return made
    if bounds is None:
        why = (
            "one process a side says nothing of how the next would differ: use `processes: 3`"
            if spec.sampled == "processes"
            else "a single chunk has no spread"
        )
        return replace(made, verdict="INCONCLUSIVE", reason=why)
    lower, upper = sorted(sign * (bound - spec.neutral) for bound in bounds)
    if lower == upper:
        return replace(made, verdict="FAIL" if harm > margin else "PASS")
    verdict = judge_harm(harm, lower, upper, margin)
    spread = value.stderr or (upper - lower) / (2 * NORMAL_95)
    smallest = smallest_effect(value, spec, spread, margin, 1 - FALSE_DISCOVERY_RATE / 2)
    made = replace(made, verdict=verdict, smallest_detectable=smallest)
    doubt = find_doubt(before, after) if spec.sampled == "processes" else ""
    if verdict == "FAIL" and doubt:
        return replace(made, verdict="INCONCLUSIVE", reason=f"flagged: {doubt}")
    if verdict != "INCONCLUSIVE":
        return made
    enough = samples_to_decide(harm, NORMAL_95 * spread, value.n or 0, margin)
    what = "processes" if spec.sampled == "processes" else "chunks or items"
    return replace(made, reason=f"about {enough:,} {what} would decide" if enough else "")


def find_doubt(before: Record, after: Record) -> str:
    """What one of two timings was flagged with and the other not; others' work counts for both.

    A GPU with a power cap on both sides is as good as one without; a busy machine is not.
    """
    kinds = [{_NUMBER.sub("#", r): r for r in x.validity.reasons} for x in (before, after)]
    one_sided = kinds[0].keys() ^ kinds[1].keys()
    told = {**kinds[0], **kinds[1]}
    doubtful = [told[kind] for kind in told if kind in one_sided or kind.startswith(_OTHERS)]
    return "; ".join(doubtful)


def _adjust(compared: Iterable[Compared]) -> tuple[Compared, ...]:
    """With ``q``; a FAIL that many comparisons explain by chance is left open."""
    compared = tuple(compared)
    tested = [one for one in compared if one.p is not None and one.verdict != "IDENTICAL"]
    adjusted = dict(
        zip(map(id, tested), benjamini_hochberg([one.p for one in tested if one.p is not None]))
    )
    return tuple(_weigh(one, adjusted.get(id(one))) for one in compared)


def _weigh(one: Compared, q: float | None) -> Compared:
    if q is None:
        return one
    if one.verdict == "FAIL" and q > FALSE_DISCOVERY_RATE:
        alone = one.p is not None and one.p > FALSE_DISCOVERY_RATE
        why = (
            f"by chance alone as far apart in {one.p:.1%} of comparisons"
            if alone
            else f"among so many comparisons this is no surprise (q = {q:.2g})"
        )
        return replace(one, q=q, verdict="INCONCLUSIVE", reason=why)
    return replace(one, q=q)


def _by_key(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    return {(r.cell.id, r.measurement): r for r in records if not r.noise}


def _find_loss(key: tuple[str, str], before: Record | None, after: Record | None) -> Missing | None:
    """What one side lacks; None where both have numbers, or neither has any."""
    if before is not None and before.usable and (after is None or not after.usable):
        if after is None:
            return Missing(*key, "B", "not in B", "INCONCLUSIVE")
        reason = f"{after.validity.status} in B: {'; '.join(after.validity.reasons)}"
        skipped = after.validity.status == "skipped"
        return Missing(*key, "B", reason, "INCONCLUSIVE" if skipped else "FAIL")
    if after is not None and after.usable and (before is None or not before.usable):
        reason = "not in A" if before is None else f"{before.validity.status} in A"
        return Missing(*key, "A", reason, "INCONCLUSIVE")
    return None


def _find_lost_values(before: Record, after: Record) -> list[Missing]:
    """Values that thresholds are kept of and B no longer has, such as a batch that does not fit."""
    specs = load_measurement(before.measurement).values
    lost = []
    for name, value in before.values.items():
        spec = specs.get(base_name(name))
        if spec is None or spec.margin is None or value.value is None:
            continue
        now = after.values.get(name)
        if now is None or now.value is None:
            why = f"{name} is unavailable in B: {'; '.join(after.validity.reasons) or 'no reason'}"
            lost.append(Missing(before.cell.id, before.measurement, "B", why, "FAIL"))
    return lost


def _is_judged(record: Record) -> bool:
    """Whether a comparison of this record with itself would judge anything."""
    return bool(compare_records(record, record))


def _is_allowed(name: str, allow: Collection[str]) -> bool:
    """By its name, or that of its group: ``libraries`` allows ``libraries.torch``."""
    return name in allow or name.partition(".")[0] in allow


def _count(record: Record) -> str:
    rows = [len(value) for value in list_outcomes(record.items).values() if isinstance(value, list)]
    return f"{max(rows, default=0)} items" if rows else "none"
