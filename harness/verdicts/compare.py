"""Two runs of the same cells, value by value: IDENTICAL, PASS, FAIL or INCONCLUSIVE. Pure.

Records are joined by cell and measurement, and item by item where there are items. A comparison
that makes no sense is refused, with the fields that differ; what only one run has is listed.
"""

import contextlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from harness.catalog import UnknownNameError, load_measurement
from harness.descriptions import ValueSpec
from harness.records.identity import (
    Changes,
    Difference,
    compare_facts,
    identify,
    list_outcomes,
)
from harness.records.record import Outcome, Record, Value
from harness.records.run_file import Run
from harness.records.values import base_name, compared_name, find_spec, is_part
from harness.statistics.estimates import NORMAL_975
from harness.statistics.nights import find_nights
from harness.verdicts.advice import say_what_decides
from harness.verdicts.decide import (
    FALSE_ALARMS,
    NIGHT_SPREAD,
    Decision,
    adjust_for_many,
    decide,
    find_df,
    harm_of,
)
from harness.verdicts.doubts import find_doubts
from harness.verdicts.looks import allow_for_looks, error_over_looks, share_error

Key = tuple[str, str]  # cell, measurement


@dataclass(frozen=True)
class Compared:
    """One value of both runs. ``change`` is B compared with A: a ratio, or a difference.

    ``harm``, ``margin`` and ``smallest_detectable`` are shares where ``change`` is a ratio, else in
    the value's unit; ``interval`` is the 95 % interval of ``change``, with what nights may add to
    it where the verdict allows for them; ``p`` is unadjusted, ``q`` by Benjamini and Hochberg over
    all speeds or all other values that were compared. ``suspects`` says what is under test and
    differs, ``decider`` what would decide it.
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
    suspects: str = ""
    smallest_detectable: float | None = None
    enough: int | None = None
    reason: str = ""
    decider: str = ""

    @property
    def improved(self) -> bool:
        """Whether B is better by more than the margin."""
        return self.harm < -self.margin


@dataclass(frozen=True)
class Refused:
    """A measurement of both runs whose questions differ; ``values`` are (name, A's, B's)."""

    cell: str
    measurement: str
    differences: tuple[Difference, ...]
    values: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Missing:
    """A measurement without a number in one run; FAIL where B failed at what A has."""

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
        """The worst: a regression, then a refusal, then something undecided."""
        verdicts = {one.verdict for one in self.compared} | {one.verdict for one in self.missing}
        if "FAIL" in verdicts:
            return "FAIL"
        if self.refused or not self.compared:
            return "INCOMPARABLE"
        return "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


def compare_runs(a: Run, b: Run, allow: Collection[str] = ()) -> Comparison:
    """Run ``b`` against run ``a``. ``allow`` names fields that may differ, or their groups."""
    before, after = (
        {(r.cell.id, r.measurement): r for r in run.records if not r.noise} for run in (a, b)
    )
    found = [
        compare_pair(a, b, key, before.get(key), after.get(key), allow)
        for key in dict.fromkeys((*before, *after))
    ]
    return Comparison(
        _adjust([value for one in found for value in one.compared]),
        tuple(refused for one in found for refused in one.refused),
        tuple(missing for one in found for missing in one.missing),
        tuple(dict.fromkeys(flag for one in found for flag in one.flags)),
        tuple(pair for one in found for pair in one.pairs),
    )


def compare_pair(
    a: Run,
    b: Run,
    key: Key,
    before: Record | None,
    after: Record | None,
    allow: Collection[str] = (),
    largest_p: float = FALSE_ALARMS,
) -> Comparison:
    """One measurement of both runs by itself; ``largest_p`` is the largest p-value of a FAIL."""
    if before is None or after is None or not (before.usable and after.usable):
        return Comparison(missing=_find_loss(key, before, after))
    sides = identify(a.environment, before), identify(b.environment, after)
    changes = compare_facts(*sides, allow)
    apart = len({*find_nights([a.run.utc, b.run.utc])}) > 1
    judge = partial(_compare_records, changes=changes, apart=apart, largest_p=largest_p)
    values = [] if changes.refused else judge(before, after)
    refused = changes.refused
    if not refused and not values and judge(before, before):
        refused = (Difference("items", _count_items(before), _count_items(after)),)
    if refused:
        shown = tuple(list_judged(before, after))
        return Comparison(refused=(Refused(*key, refused, shown),), flags=changes.flags)
    lost = tuple(_find_lost_values(before, after))
    return Comparison(tuple(values), (), lost, changes.flags, ((before, after),))


def is_speed(measurement: str, name: str) -> bool:
    """Whether a value is a sample of processes: of the family of speeds."""
    spec = find_spec(measurement, name)
    return spec is not None and spec.sampled == "processes"


def count_tested(run: Run, speeds: bool) -> int:
    """How many speeds, or other values, of a run could FAIL by chance: with spread and margin."""
    tested = 0
    for record in run.records:
        with contextlib.suppress(UnknownNameError):
            specs = load_measurement(record.measurement).values.values()
            could = (s for s in specs if s.sampled and s.margin and s.neutral is not None)
            compared = {s.of for s in could if (s.sampled == "processes") is speeds}
            names = record.values if record.usable and not record.noise else ()
            tested += sum(base_name(n) in compared and not is_part(n, names) for n in names)
    return tested


def _compare_records(
    before: Record, after: Record, changes: Changes, apart: bool, largest_p: float
) -> list[Compared]:
    """The judged values of one measurement of both runs; ``q`` is still unknown."""
    metric = load_measurement(before.measurement)
    paired = metric.compare(after, before)
    compared = []
    for name, value in paired.items():
        spec = metric.values[base_name(name)]
        judged = spec.margin is not None and spec.neutral is not None and value.value is not None
        if judged and not is_part(name, paired):
            given = (name, value, spec, changes, apart, largest_p)
            compared.append(_compare_value(before, after, *given))
    return compared


def is_identical(before: Record, after: Record, *values: str) -> bool:
    """Whether every item has the same outcome in both, as far as ``values`` are made of it.

    A record without items never is.
    """
    ours, theirs = (list_outcomes(record, *values) for record in (before, after))
    return bool(ours) and ours == theirs


def list_judged(before: Record, after: Record) -> Iterable[tuple[str, float, float]]:
    """The values with a margin that both have: name, before, after."""
    specs = load_measurement(before.measurement).values
    for name, value in before.values.items():
        spec, now = specs.get(base_name(name)), after.values.get(name)
        is_shown = spec and spec.margin and not is_part(name, before.values)
        if is_shown and now and value.value is not None and now.value is not None:
            yield name, value.value, now.value


def _compare_value(
    before: Record,
    after: Record,
    name: str,
    value: Value,
    spec: ValueSpec,
    changes: Changes,
    apart: bool,
    largest_p: float,
) -> Compared:
    assert value.value is not None
    assert spec.neutral is not None
    assert spec.margin is not None
    of = compared_name(name, spec)
    a, b = (record.values.get(of, Value(value=None)) for record in (before, after))
    is_ratio = spec.neutral == 1
    margin = spec.margin.of(a.value or 0.0)
    if is_ratio:
        margin /= abs(a.value) if a.value else 1.0
    looked = min((before, after), key=lambda one: share_error(one, spec))
    held = allow_for_looks(looked, spec, value, find_df(value))
    harm = harm_of(held, spec, 1 if spec.better == "lower" else -1, spec.neutral)
    harm = replace(harm, error=share_error(looked, spec))
    largest_p = share_error(looked, spec, largest_p)
    if apart and is_ratio and spec.sampled == "processes":
        harm = replace(harm, night=NIGHT_SPREAD * math.sqrt(2))
    is_zero = harm.is_exact and harm.estimate == 0
    same = is_zero or is_identical(before, after, base_name(of))
    doubts = _find_doubts(before, after, changes) if spec.sampled == "processes" else None
    decision = Decision("PASS") if same else decide(harm, margin, "change", largest_p, doubts)
    p = None if decision.p is None else error_over_looks(looked, spec, decision.p)
    sides = f"--precision {after.cell.precision} --python A/bin/python --python B/bin/python"
    return Compared(
        cell=after.cell.id,
        measurement=after.measurement,
        value=of,
        verdict="IDENTICAL" if same else decision.outcome,
        a=a.value,
        b=b.value,
        unit=a.unit,
        change=value.value,
        is_ratio=is_ratio,
        interval=_allow_for_nights(value, harm.night),
        harm=harm.estimate,
        margin=margin,
        p=p,
        n=value.n,
        suspects=changes.name_suspects("A"),
        smallest_detectable=decision.smallest_detectable,
        enough=decision.enough,
        reason=decision.why,
        decider=say_what_decides(after, spec, value.n, decision.enough, "SUITE", sides),
    )


def _allow_for_nights(value: Value, night: float) -> tuple[float, float] | None:
    """The 95 % interval, with what two nights may add: by which the verdict was reached."""
    if value.interval is None or value.value is None or not night:
        return value.interval
    low, high = (math.hypot(end - value.value, NORMAL_975 * night) for end in value.interval)
    return value.value - low, value.value + high


def _find_doubts(before: Record, after: Record, changes: Changes) -> dict[Outcome, str]:
    """What speaks against either outcome: A may have been too slow, and so B seem as fast."""
    own = find_doubts(before, after)
    both = [*own, *find_doubts(after, before), *(f"{one} differs" for one in changes.conditions)]
    return {"FAIL": "; ".join(dict.fromkeys(both)), "PASS": "; ".join(f"{one} (A)" for one in own)}


def _adjust(compared: list[Compared]) -> tuple[Compared, ...]:
    """With ``q``; a FAIL that many comparisons of its family explain by chance is left open.

    Speeds are one family, all other values another.
    """
    families: dict[bool, list[int]] = {}
    for i, one in enumerate(compared):
        if one.p is not None and one.verdict != "IDENTICAL":
            families.setdefault(is_speed(one.measurement, one.value), []).append(i)
    for tested in families.values():
        adjusted = adjust_for_many([p for i in tested if (p := compared[i].p) is not None])
        for i, (q, chance) in zip(tested, adjusted, strict=True):
            compared[i] = replace(compared[i], q=q)
            if compared[i].verdict == "FAIL" and chance:
                compared[i] = replace(compared[i], verdict="INCONCLUSIVE", reason=chance)
    return tuple(compared)


def _find_loss(key: Key, before: Record | None, after: Record | None) -> tuple[Missing, ...]:
    """What the other side lacks, of two that do not both have numbers; empty where neither has."""
    if before is not None and before.usable:
        if after is None:
            return (Missing(*key, "B", "not in B", "INCONCLUSIVE"),)
        reason = f"{after.validity.status} in B: {'; '.join(after.validity.reasons)}"
        skipped = after.validity.status == "skipped"
        return (Missing(*key, "B", reason, "INCONCLUSIVE" if skipped else "FAIL"),)
    if after is not None and after.usable:
        reason = "not in A" if before is None else f"{before.validity.status} in A"
        return (Missing(*key, "A", reason, "INCONCLUSIVE"),)
    return ()


def _find_lost_values(before: Record, after: Record) -> Iterable[Missing]:
    """Values with a margin that B no longer has, such as a batch size that does not fit."""
    metric = load_measurement(before.measurement)
    reasons = after.validity.reasons or metric.remarks(after)
    for name, value in before.values.items():
        spec, now = metric.values.get(base_name(name)), after.values.get(name)
        if spec is None or spec.margin is None or value.value is None:
            continue
        if now is None or now.value is None:
            why = f"{name} is unavailable in B: {'; '.join(reasons) or 'no reason'}"
            yield Missing(before.cell.id, before.measurement, "B", why, "FAIL")


def _count_items(record: Record) -> str:
    rows = (v for v in list_outcomes(record).values() if isinstance(v, list))
    longest = max(map(len, rows), default=None)
    return "none" if longest is None else f"{longest} items"
