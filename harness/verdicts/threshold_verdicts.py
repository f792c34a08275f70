"""Records judged by thresholds: a verdict per blessed value, and what could be tightened. Pure.

The harm is the distance from the blessed value. Which items were drawn is no part of its spread:
both sides have the same items.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from harness.catalog import describe_unknown, load_measurement
from harness.descriptions import ValueSpec
from harness.records.identity import Difference
from harness.records.record import Outcome, Record, Value, Verdict
from harness.records.values import base_name, compared_name, find_spec, processes_of
from harness.statistics.estimates import NORMAL_95, Processes, t_quantile
from harness.statistics.nights import ENOUGH_NIGHTS, compare_with_blessed
from harness.statistics.shares import paired_difference
from harness.verdicts.decide import (
    FALSE_ALARMS,
    NIGHT_SPREAD,
    Decision,
    Harm,
    decide,
    harm_of,
    one_sided,
)
from harness.verdicts.doubts import name_changes
from harness.verdicts.looks import ERROR
from harness.verdicts.same_night import PAIRS_SHARE, confirm
from harness.verdicts.thresholds import (
    Blessed,
    Threshold,
    Thresholds,
    as_speed,
    find_changes,
    find_row,
    hash_items,
    pack_list,
    unpack_list,
    unpack_row,
)
from harness.verdicts.wording import (
    SEEN_FROM,
    describe_refusal,
    show_change,
    show_estimate,
    show_numbers,
    show_size,
)

_OPEN = partial(Verdict, verdict="INCONCLUSIVE", value=None, against="threshold")


def judge_thresholds(
    thresholds: Thresholds,
    environment: Mapping[str, Any],
    record: Record,
    allow: Collection[str] = (),
    confirms: bool = False,
) -> tuple[Verdict, ...]:
    """A verdict per blessed value of this record; none where it failed, or nothing is blessed.

    A single INCONCLUSIVE verdict without a value where another question is asked; ``allow`` names
    fields of it that may differ. ``confirms``: speeds that do not pass will be measured again, so
    they leave a share of the error for that. Numbers of an invalid record are not judged, but a
    number that is gone is a loss.
    """
    blessed = thresholds.find(record)
    if blessed is None or record.noise or record.validity.status in ("failed", "skipped"):
        return ()
    commit = blessed.commit[:10]
    changes = find_changes(blessed, environment, record, allow)
    unpaired = list(_find_unpaired(blessed, record))
    if changes.refused or unpaired:
        label = f"{record.cell.id} {record.measurement}"
        found = [(n, one.value, record.values.get(n)) for n, one in blessed.values.items()]
        numbers = [(n, was, now.value) for n, was, now in found if now and now.value is not None]
        refused = (*changes.refused, *unpaired)
        text = describe_refusal(label, f"what was blessed at {commit}", refused, numbers)
        if unpaired:
            were, are = unpaired[0].a, unpaired[0].b
            text += f"; {are:,} items cannot be paired with the {were:,} that were blessed"
            text += ": bless again, or restore the items"
        else:
            text += "; bless it anew where the change was meant"
        bound, metric = f"threshold of {commit}", record.measurement
        return (_OPEN(metric=metric, bound=bound, text=text),)
    same_items = blessed.items is not None and blessed.items == hash_items(record)
    again = record.same_night
    confirms |= again is not None and again.commit == blessed.commit
    kept = 1 - PAIRS_SHARE if confirms else 1.0
    verdicts = (
        _judge(thresholds, blessed, record, name, same_items, kept) for name in blessed.values
    )
    named = (name_changes(verdict, changes, "the blessing") for verdict in verdicts)
    process, largest_p = thresholds.nights.process, _find_largest_p(thresholds, timed=True)
    return tuple(confirm(verdict, record, blessed, process, largest_p) for verdict in named)


def _find_unpaired(blessed: Blessed, record: Record) -> Iterator[Difference]:
    """The numbers of items of the rows that are not as long as the blessed ones."""
    for name, threshold in blessed.values.items():
        spec = find_spec(record.measurement, name)
        now = find_row(record, spec) if spec is not None else None
        if threshold.row is not None and now is not None:
            were = len(unpack_row(threshold.row))
            if were != len(now):
                yield Difference("items", were, len(now))
                return


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
            spec = find_spec(record.measurement, name)
            if spec is None or _find_flaw(threshold, blessed, spec) is not None:
                continue
            harm = measure_harm(thresholds, blessed, record, name, spec)
            bounds = harm.bounds_with_night if harm else None
            if harm and bounds and threshold.value and bounds[1] < -threshold.margin:
                gain = -harm.estimate / abs(threshold.value)
                proposals.append(
                    f"{record.cell.id} {record.measurement}.{name} is {gain:.1%} better than its "
                    "threshold: `harness bless` this run to hold it"
                )
    return proposals


def measure_harm(
    thresholds: Thresholds,
    blessed: Blessed,
    record: Record,
    name: str,
    spec: ValueSpec,
    error: float = ERROR,
) -> Harm | None:
    """How much worse than blessed, in the value's unit; None where the value is unavailable.

    - Speeds: by nights, see `harness.statistics.nights`.
    - A share of right items: item by item. A value of ``ValueSpec.lists``: as two runs are
      compared, item by item or chunk by chunk.
    - Others: the prediction interval of one more A/A run, SE = σ·sqrt(1 + 1/n). Where a single run
      was blessed, a sample has no spread, and what is no sample is exact.
    """
    found, threshold = record.values.get(name), blessed.values[name]
    if found is None or found.value is None:
        return None
    sign = 1 if threshold.better == "lower" else -1
    if spec.sampled == "processes":
        now = processes_of(found)
        given = (thresholds, blessed, threshold)
        return None if now is None else _compare_speeds(*given, now, sign, error)
    if threshold.row is not None:
        return _compare_items(unpack_row(threshold.row), find_row(record, spec) or "")
    harm = sign * (found.value - threshold.value)
    change = _compare_lists(blessed, record, name) if blessed.has_lists(spec) else None
    if change is not None and (change.bounds is not None or not threshold.spread):
        return _shift(change, harm, threshold)
    if not threshold.spread:
        is_exact = spec.sampled is None or threshold.n > 1
        return Harm(harm, (harm, harm) if is_exact else None)
    stderr, df = threshold.spread * math.sqrt(1 + 1 / threshold.n), threshold.n - 1
    reach = t_quantile(0.95, df) * stderr
    return Harm(harm, (harm - reach, harm + reach), stderr, df, "runs", threshold.n)


def _compare_speeds(
    thresholds: Thresholds,
    blessed: Blessed,
    threshold: Threshold,
    now: Processes,
    sign: int,
    error: float,
) -> Harm:
    """Of fewer than three nights, two of them may differ by more than their processes show."""
    speed, value = as_speed(threshold, blessed), threshold.value
    change = compare_with_blessed(speed, now, thresholds.nights, 1 - FALSE_ALARMS, error)
    ends = [sign * math.expm1(end) * value for end in (change.lower, change.upper)]
    few = speed.nights < ENOUGH_NIGHTS
    return Harm(
        estimate=sign * math.expm1(change.estimate) * value,
        bounds=(min(ends), max(ends)),
        stderr=change.stderr * value,
        df=change.df,
        sampled="processes" if few else "nights",
        n=round(2 / (1 / threshold.n + 1 / now.n)) if few else speed.nights,
        night=NIGHT_SPREAD * math.sqrt(1 + 1 / speed.nights) * value if few else 0.0,
        allowance=change.allowance * value,
        error=error,
    )


def _compare_items(before: str, now: str) -> Harm:
    """By Tango's interval of the items that flipped. Raises ValueError for unequal rows."""
    if len(before) != len(now):
        raise ValueError(f"{len(before)} items were blessed, {len(now)} are here")
    pairs = Counter(zip(before, now, strict=True))
    lost, won = pairs["1", "0"], pairs["0", "1"]
    n = sum(count for pair, count in pairs.items() if "-" not in pair)
    drop = paired_difference(lost, won, n)
    return Harm(
        estimate=drop.value,
        bounds=(drop.lower, drop.upper),
        stderr=drop.stderr or (drop.upper - drop.lower) / (2 * NORMAL_95),
        sampled="items",
        n=n,
        flips=(lost + won) / n,
        p=one_sided(drop.p, drop.value),
    )


def _compare_lists(blessed: Blessed, record: Record, name: str) -> Harm | None:
    """As two runs are compared; None where theirs are not the same items or chunks."""
    metric = load_measurement(record.measurement)
    rows = {
        spec.row: unpack_row(one.row)
        for other, one in blessed.values.items()
        if one.row is not None and (spec := metric.values.get(base_name(other))) and spec.row
    }
    kept = {list_name: unpack_list(packed) for list_name, packed in blessed.lists.items()}
    # Both in single precision: what is equal stays equal.
    same = {one: unpack_list(pack_list(record.items[one])) for one in kept if one in record.items}
    now = record.model_copy(update={"items": {**record.items, **same}})
    before = record.model_copy(update={"items": {**rows, **kept}})
    for paired, value in metric.compare(now, before).items():
        spec = metric.values[base_name(paired)]
        is_change = spec.margin is not None and compared_name(paired, spec) == name
        if is_change and spec.neutral is not None and value.value is not None:
            harm = harm_of(value, spec, 1 if spec.better == "lower" else -1, spec.neutral)
            was = (record.values[name].value or 0.0) / value.value if spec.neutral == 1 else 1.0
            return harm.scale(was)
    return None


def _shift(change: Harm, harm: float, threshold: Threshold) -> Harm:
    """From what was measured to the threshold, which a person may have edited."""
    by = harm - change.estimate
    bounds = change.bounds and (change.bounds[0] + by, change.bounds[1] + by)
    is_edited = abs(by) > 1e-3 * threshold.margin
    return replace(change, estimate=harm, bounds=bounds, p=None if is_edited else change.p)


def _find_flaw(threshold: Threshold, blessed: Blessed, spec: ValueSpec | None) -> str | None:
    """Why no record can be judged by this threshold; None where one can."""
    if spec is None or spec.margin is None:
        return "the harness keeps no threshold of this value"
    if (threshold.better, threshold.unit) != (spec.better, spec.unit):
        theirs, ours = (f"{x.better} is better, in {x.unit!r}" for x in (threshold, spec))
        return f"the threshold says that {theirs}, the harness that {ours}"
    if spec.sampled != "processes":
        return None
    if threshold.value <= 0:
        return f"the threshold {threshold.value:g} is no positive number"
    if threshold.spread is None and as_speed(threshold, blessed).nights < ENOUGH_NIGHTS:
        return "the threshold has no spread between processes: bless from 3 or more of them"
    return None


def _judge(
    thresholds: Thresholds,
    blessed: Blessed,
    record: Record,
    name: str,
    same_items: bool,
    kept: float,
) -> Verdict:
    """``kept`` is the share of the error that a speed's verdict may spend."""
    threshold, commit = blessed.values[name], blessed.commit[:10]
    metric, value = f"{record.measurement}.{name}", threshold.value
    margin = show_numbers((threshold.margin,), threshold.unit)[0]
    bound = f"{show_numbers((value,), threshold.unit)[0]} ± {margin}"
    spec = find_spec(record.measurement, name)
    flaw = _find_flaw(threshold, blessed, spec)
    if spec is None:
        flaw = describe_unknown("value", name, record.values)
    if spec is None or flaw is not None:
        text = f"{record.cell.id}: {metric} cannot be judged by what was blessed at {commit}"
        return _OPEN(metric=metric, bound=bound, text=f"{text}: {flaw}.")
    now = record.values.get(name, Value(value=None)).value
    timed = spec.sampled == "processes"
    kept = kept if timed else 1.0
    harm = measure_harm(thresholds, blessed, record, name, spec, ERROR * kept)
    largest_p = _find_largest_p(thresholds, timed) * kept
    same = same_items and now == value
    decision = _decide(record, threshold.margin, timed, harm, same, largest_p)
    bounds, ends = None, harm.bounds_with_night if harm else None
    error = harm.error if harm else ERROR
    if ends is not None and ends[0] != ends[1]:
        sign = 1 if threshold.better == "lower" else -1
        low, high = sorted(value + sign * end for end in ends)
        bounds = (low, high)
    unit = threshold.unit
    was = show_numbers((value, value if now is None else now), unit)[0]
    shown = (
        "unavailable" if now is None else show_estimate(now, unit, None, bounds, (value,), error)
    )
    change = f"{show_change(now / value, is_ratio=True)} from " if now is not None and value else ""
    text = f"{record.cell.id}: {metric} is {shown} ({change}{was}, blessed at {commit}); "
    share = f" ({show_size(threshold.margin / abs(value), is_ratio=True)})" if value else ""
    text += f"the margin is {margin}{share}"
    if decision.smallest_detectable is not None:
        least = show_numbers((decision.smallest_detectable,), unit)[0]
        text += f"; {SEEN_FROM} {least} on"
    text += f"; {decision.why}." if decision.why else "."
    return Verdict(
        verdict=decision.outcome,
        metric=metric,
        bound=bound,
        value=now,
        text=text,
        against="threshold",
        bounds=bounds,
        error=round(error, 6),
        smallest_detectable=decision.smallest_detectable,
        enough=decision.enough,
        suspicious=timed and record.usable and harm is not None and decision.outcome != "PASS",
    )


def _find_largest_p(thresholds: Thresholds, timed: bool) -> float:
    """Bonferroni: an item is judged before the others are measured."""
    return FALSE_ALARMS / max(1, thresholds.families[timed])


def _decide(
    record: Record, margin: float, timed: bool, harm: Harm | None, same: bool, largest_p: float
) -> Decision:
    """By the rule, unless it needs none; ``largest_p`` is that of a FAIL."""
    if harm is None:
        return Decision("FAIL", "it is unavailable now")
    reasons = "; ".join(record.validity.reasons)
    if not record.usable:
        return Decision("INCONCLUSIVE", f"this number is {record.validity.status}: {reasons}")
    doubts: dict[Outcome, str] = {"FAIL": reasons} if timed else {}
    decision = decide(harm, margin, "change", largest_p, doubts)
    return replace(decision, outcome="PASS", why="every item is as it was") if same else decision
