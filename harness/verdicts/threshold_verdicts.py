"""Records judged by thresholds: a verdict per blessed value, and what could be tightened. Pure.

The harm is the distance from the blessed value. Which items were drawn is no part of its spread:
both sides have the same items.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from harness.descriptions import ValueSpec
from harness.records.record import Record, Value, Verdict
from harness.records.values import find_spec, processes_of
from harness.statistics.estimates import (
    NORMAL_95,
    Processes,
    pooled_ratio_interval,
    t_quantile,
)
from harness.statistics.shares import paired_difference
from harness.verdicts.decide import FALSE_DISCOVERY_RATE, Decision, Harm, decide
from harness.verdicts.doubts import name_changes
from harness.verdicts.thresholds import (
    Threshold,
    Thresholds,
    find_changes,
    find_row,
    hash_items,
    unpack_row,
)
from harness.verdicts.wording import describe_refusal

_OPEN = partial(Verdict, verdict="INCONCLUSIVE", value=None, against="threshold")


def judge_thresholds(
    thresholds: Thresholds,
    environment: Mapping[str, Any],
    record: Record,
    allow: Collection[str] = (),
) -> tuple[Verdict, ...]:
    """A verdict per blessed value of this record; none where it failed, or nothing is blessed.

    A single INCONCLUSIVE verdict without a value where another question is asked; ``allow`` names
    fields of it that may differ. Numbers of an invalid record are not judged, but a number that is
    gone is a loss.
    """
    blessed = thresholds.find(record)
    if blessed is None or record.noise or record.validity.status in ("failed", "skipped"):
        return ()
    commit = blessed.commit[:10]
    changes = find_changes(blessed, environment, record, allow)
    if changes.refused:
        label = f"{record.cell.id} {record.measurement}"
        found = [(n, one.value, record.values.get(n)) for n, one in blessed.values.items()]
        numbers = [(n, was, now.value) for n, was, now in found if now and now.value is not None]
        text = describe_refusal(label, f"what was blessed at {commit}", changes.refused, numbers)
        text += "; bless it anew where the change was meant"
        bound, metric = f"threshold of {commit}", record.measurement
        return (_OPEN(metric=metric, bound=bound, text=text),)
    same_items = blessed.items is not None and blessed.items == hash_items(record)
    # Bonferroni: an item is judged before the others are measured.
    largest_p = FALSE_DISCOVERY_RATE / max(1, _count_speeds(thresholds))
    verdicts = (
        _judge(record, name, threshold, commit, same_items, largest_p)
        for name, threshold in blessed.values.items()
    )
    return tuple(name_changes(verdict, changes, "the blessing") for verdict in verdicts)


def propose_tighter(
    thresholds: Thresholds, environment: Mapping[str, Any], records: Iterable[Record]
) -> list[str]:
    """A sentence per value that is surely better than blessed, by more than the margin."""
    proposals = []
    for record in records:
        blessed = thresholds.find(record)
        if blessed is None or not record.usable:
            continue
        if find_changes(blessed, environment, record).refused:
            continue
        for name, threshold in blessed.values.items():
            spec, margin = find_spec(record.measurement, name), threshold.margin
            if spec is None or margin is None or _find_flaw(threshold, spec) is not None:
                continue
            harm = _measure_harm(record, name, threshold, spec)
            if harm and harm.bounds and threshold.value and harm.bounds[1] < -margin:
                gain = -harm.estimate / abs(threshold.value)
                proposals.append(
                    f"{record.cell.id} {record.measurement}.{name} is {gain:.1%} better than its "
                    "threshold: `harness bless` this run to hold it"
                )
    return proposals


def _count_speeds(thresholds: Thresholds) -> int:
    """How many blessed values vary from process to process: each could fail by chance."""
    return sum(
        spec is not None and spec.sampled == "processes"
        for measurements in thresholds.cells.values()
        for measurement, one in measurements.items()
        for spec in (find_spec(measurement, name) for name in one.values)
    )


def _measure_harm(record: Record, name: str, threshold: Threshold, spec: ValueSpec) -> Harm | None:
    """How much worse than blessed, in the value's unit; None where the value is unavailable.

    - Speeds: Student's interval of the ratio, blessed and present processes taken to scatter
      alike; a single present one is given the blessed spread.
    - A share of right items: item by item.
    - Others: the prediction interval of one more A/A run, SE = σ·sqrt(1 + 1/n), or none where a
      single run was blessed.
    """
    found = record.values.get(name)
    if found is None or found.value is None:
        return None
    sign = 1 if threshold.better == "lower" else -1
    if spec.sampled == "processes":
        now = processes_of(found)
        return None if now is None else _compare_processes(threshold, now, sign)
    if threshold.row is not None:
        return _compare_items(unpack_row(threshold.row), find_row(record, spec) or "")
    harm = sign * (found.value - threshold.value)
    if not threshold.spread:
        return Harm(harm, (harm, harm))
    stderr, df = threshold.spread * math.sqrt(1 + 1 / threshold.n), threshold.n - 1
    reach = t_quantile(0.95, df) * stderr
    return Harm(harm, (harm - reach, harm + reach), stderr, df, "runs", threshold.n)


def _compare_processes(threshold: Threshold, now: Processes, sign: int) -> Harm:
    blessed = Processes(threshold.value, threshold.spread, threshold.n)
    ratio = pooled_ratio_interval(blessed, now)
    ends = [sign * (end - 1) * threshold.value for end in (ratio.lower, ratio.upper)]
    return Harm(
        estimate=sign * (ratio.value - 1) * threshold.value,
        bounds=(min(ends), max(ends)),
        stderr=(ratio.stderr or 0.0) * threshold.value,
        df=threshold.n - 1 if now.spread is None else threshold.n + now.n - 2,
        sampled="processes",
        n=round(2 / (1 / threshold.n + 1 / now.n)),
        p=ratio.p,
    )


def _compare_items(before: str, now: str) -> Harm:
    """By Tango's interval of the items that flipped. Raises ValueError for unequal rows."""
    if len(before) != len(now):
        raise ValueError(f"{len(before)} items were blessed, {len(now)} are here")
    pairs = [pair for pair in zip(before, now, strict=True) if "-" not in pair]
    lost, won = pairs.count(("1", "0")), pairs.count(("0", "1"))
    drop = paired_difference(lost, won, len(pairs))
    return Harm(
        estimate=drop.value,
        bounds=(drop.lower, drop.upper),
        stderr=drop.stderr or (drop.upper - drop.lower) / (2 * NORMAL_95),
        sampled="items",
        n=len(pairs),
        flips=(lost + won) / len(pairs),
        p=drop.p,
    )


def _find_flaw(threshold: Threshold, spec: ValueSpec | None) -> str | None:
    """Why no record can be judged by this threshold; None where one can."""
    if spec is None or spec.margin is None:
        return "the harness keeps no threshold of this value"
    if (threshold.better, threshold.unit) != (spec.better, spec.unit):
        theirs, ours = (f"{x.better} is better, in {x.unit!r}" for x in (threshold, spec))
        return f"the threshold says that {theirs}, the harness that {ours}"
    if spec.sampled == "processes" and threshold.spread is None:
        return "the threshold has no spread between processes: bless from 3 or more of them"
    if spec.sampled == "processes" and threshold.value <= 0:
        return f"the threshold {threshold.value:g} is no positive number"
    return None


def _judge(
    record: Record, name: str, threshold: Threshold, commit: str, same_items: bool, largest_p: float
) -> Verdict:
    metric, value = f"{record.measurement}.{name}", threshold.value
    margin = "none" if threshold.margin is None else f"{threshold.margin:.3g}"
    bound = "no margin" if threshold.margin is None else f"{value:.6g} ± {margin}"
    spec = find_spec(record.measurement, name)
    flaw = _find_flaw(threshold, spec)
    if spec is None or flaw is not None:
        text = f"{record.cell.id}: {metric} cannot be judged by what was blessed at {commit}"
        return _OPEN(metric=metric, bound=bound, text=f"{text}: {flaw}.")
    now = record.values.get(name, Value(value=None)).value
    unit = f" {threshold.unit}" if threshold.unit else ""
    shown = "unavailable" if now is None else f"{now:.6g}{unit}"
    change = f" ({now / value - 1:+.2%})" if now is not None and value else ""
    text = f"{record.cell.id}: {metric} is {shown}, blessed at {commit} were {value:.6g}{unit}"
    text += f"{change}, the margin is {margin}"
    harm = _measure_harm(record, name, threshold, spec)
    decision = _decide(record, threshold, spec, harm, same_items and now == value, largest_p)
    bounds = None
    if harm is not None and harm.bounds is not None and not harm.is_exact:
        sign = 1 if threshold.better == "lower" else -1
        low, high = sorted(value + sign * end for end in harm.bounds)
        bounds = (low, high)
        text += f"; 95 % bounds {low:.6g} to {high:.6g}"
    if decision.smallest_detectable is not None:
        text += f"; harm is seen with 80 % power from {decision.smallest_detectable:.3g} on"
    text += f"; {decision.why}." if decision.why else "."
    return Verdict(
        verdict=decision.outcome,
        metric=metric,
        bound=bound,
        value=now,
        text=text,
        against="threshold",
        bounds=bounds,
        smallest_detectable=decision.smallest_detectable,
    )


def _decide(
    record: Record,
    threshold: Threshold,
    spec: ValueSpec,
    harm: Harm | None,
    same: bool,
    largest_p: float,
) -> Decision:
    """By the rule, unless it needs none; ``largest_p`` is that of a speed's FAIL."""
    if harm is None:
        return Decision("FAIL", "it is unavailable now")
    reasons = "; ".join(record.validity.reasons)
    if not record.usable:
        return Decision("INCONCLUSIVE", f"this number is {record.validity.status}: {reasons}")
    timed = spec.sampled == "processes"
    largest_p = largest_p if timed else FALSE_DISCOVERY_RATE
    if threshold.margin is None:
        sigma = f"{threshold.spread or 0.0:{'.2%' if timed else '.2g'}}"
        why = f"runs of one commit differ by σ = {sigma}, too much for any margin"
        decision = Decision("INCONCLUSIVE", why)
    else:
        confidence = 0.95 if harm.p is None else 1 - largest_p / 2
        decision = decide(harm, threshold.margin, confidence, largest_p, reasons if timed else "")
    return replace(decision, outcome="PASS", why="every item is as it was") if same else decision
