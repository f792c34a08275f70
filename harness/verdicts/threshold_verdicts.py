"""Records judged by thresholds: a verdict per blessed value, and what should be blessed anew. Pure.

The harm is the distance from the blessed value. The sampling error of items is no part of it: both
are of the same items.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.records.record import Record, Value, Verdict
from harness.records.values import base_name, processes_of
from harness.statistics.estimates import (
    Outcome,
    Processes,
    judge_harm,
    paired_difference,
    pooled_ratio_interval,
    t_quantile,
)
from harness.statistics.power import (
    samples_to_decide,
    smallest_detectable,
    smallest_detectable_share,
)
from harness.verdicts.compare import FALSE_DISCOVERY_RATE
from harness.verdicts.thresholds import (
    Threshold,
    Thresholds,
    find_changes,
    find_row,
    hash_items,
    unpack_row,
)


def judge_thresholds(
    thresholds: Thresholds, environment: Mapping[str, Any], record: Record
) -> tuple[Verdict, ...]:
    """A verdict per blessed value of this record; none where it has failed, or nothing is blessed.

    One verdict in all, INCONCLUSIVE and without a value, where what the thresholds depend on has
    changed. Numbers of an invalid record are not judged, but one that is gone is a loss.
    """
    blessed = thresholds.find(record)
    if blessed is None or record.noise or record.validity.status in ("failed", "skipped"):
        return ()
    differences = find_changes(blessed, environment, record)
    if differences:
        changed = ", ".join(map(str, differences))
        text = (
            f"{record.cell.id} {record.measurement} cannot be judged against the thresholds of "
            f"{blessed.commit[:10]}: {changed} changed; bless it anew where that was meant"
        )
        return (_verdict(record.measurement, f"threshold of {blessed.commit[:10]}", text),)
    same_items = blessed.items is not None and blessed.items == hash_items(record)
    chance = FALSE_DISCOVERY_RATE / _count_speeds(thresholds)
    return tuple(
        _judge(record, name, threshold, blessed.commit[:10], same_items, chance)
        for name, threshold in blessed.values.items()
    )


def _count_speeds(thresholds: Thresholds) -> int:
    """How many blessed values vary from process to process: each could fail by chance."""
    blessed: Iterable[ValueSpec | None] = (
        load_measurement(measurement).values.get(base_name(name))
        for measurements in thresholds.cells.values()
        for measurement, one in measurements.items()
        for name in one.values
    )
    return max(1, sum(spec is not None and spec.sampled == "processes" for spec in blessed))


def propose_tighter(
    thresholds: Thresholds, environment: Mapping[str, Any], records: Iterable[Record]
) -> list[str]:
    """A sentence per value that is surely better than blessed, by more than the margin."""
    proposals = []
    for record in records:
        blessed = thresholds.find(record)
        if blessed is None or not record.usable or find_changes(blessed, environment, record):
            continue
        for name, threshold in blessed.values.items():
            found = record.values.get(name)
            if found is None or threshold.margin is None or threshold.value == 0:
                continue
            spec = _find_spec(record, name)
            if spec is None or _find_flaw(threshold, spec) is not None:
                continue
            harm = _measure_harm(found, threshold, spec, record)
            if harm is not None and harm.upper < -threshold.margin:
                gain = -harm.harm / abs(threshold.value)
                proposals.append(
                    f"{record.cell.id} {record.measurement}.{name} is {gain:.1%} better than its "
                    "threshold: `harness bless` this run to hold it"
                )
    return proposals


@dataclass(frozen=True)
class _Harm:
    """How much worse than blessed, in the value's unit, with one-sided 95 % bounds.

    ``n`` is the samples of each side, were they as many; ``df`` no more than there are degrees of
    freedom, ``p`` is of no difference, ``flips`` the share of items that turned.
    """

    harm: float
    lower: float
    upper: float
    stderr: float = 0.0
    n: int = 1
    df: float = math.inf
    p: float = 0.0
    flips: float | None = None


def _measure_harm(
    found: Value, threshold: Threshold, spec: ValueSpec, record: Record
) -> _Harm | None:
    """None where the value is unavailable.

    Processes: Student's interval of the ratio, blessed and present ones taken to scatter alike; a
    single one is given the blessed spread. Others:
    the prediction interval of one more A/A run, SE = σ·sqrt(1 + 1/n), or none where a single run
    was blessed. A share of right items is judged item by item.
    """
    if found.value is None:
        return None
    sign = 1 if threshold.better == "lower" else -1
    if spec.sampled == "processes":
        now = processes_of(found)
        if now is None:
            return None
        ratio = pooled_ratio_interval(
            Processes(threshold.value, threshold.spread, threshold.n), now
        )
        harms = [sign * (r - 1) * threshold.value for r in (ratio.value, ratio.lower, ratio.upper)]
        df = threshold.n - 1 if now.spread is None else threshold.n + now.n - 2
        return _Harm(
            harm=harms[0],
            lower=min(harms),
            upper=max(harms),
            stderr=(ratio.stderr or 0.0) * threshold.value,
            n=round(2 / (1 / threshold.n + 1 / now.n)),
            df=df,
            p=ratio.p or 0.0,
        )
    harm = sign * (found.value - threshold.value)
    if threshold.row is not None:
        return _pair_items(unpack_row(threshold.row), find_row(record, found.value) or "")
    if not threshold.spread:
        return _Harm(harm, harm, harm)
    stderr = threshold.spread * math.sqrt(1 + 1 / threshold.n)
    df = threshold.n - 1
    reach = t_quantile(0.95, df) * stderr
    return _Harm(harm, harm - reach, harm + reach, stderr, threshold.n, df)


def _pair_items(before: str, now: str) -> _Harm:
    """Tango's interval of the items that turned. Raises ValueError for rows that do not match."""
    if len(before) != len(now):
        raise ValueError(f"{len(before)} items were blessed, {len(now)} are here")
    pairs = [pair for pair in zip(before, now, strict=True) if "-" not in pair]
    lost, won = pairs.count(("1", "0")), pairs.count(("0", "1"))
    turned = paired_difference(lost, won, len(pairs))
    flips = (lost + won) / len(pairs)
    return _Harm(
        turned.value,
        turned.lower,
        turned.upper,
        turned.stderr or 0.0,
        len(pairs),
        p=turned.p or 0.0,
        flips=flips,
    )


def _find_spec(record: Record, name: str) -> ValueSpec | None:
    spec: ValueSpec | None = load_measurement(record.measurement).values.get(base_name(name))
    return spec


def _find_flaw(threshold: Threshold, spec: ValueSpec | None) -> str | None:
    """Why no record can be judged by this threshold; None where one can."""
    if spec is None or spec.margin is None:
        return "no threshold is kept of such a value"
    if (threshold.better, threshold.unit) != (spec.better, spec.unit):
        said = (
            f"{better} is better, in {unit!r}"
            for better, unit in ((threshold.better, threshold.unit), (spec.better, spec.unit))
        )
        return "the threshold says that {}, the harness that {}".format(*said)
    if spec.sampled == "processes":
        if threshold.spread is None:
            return "the threshold has no spread between processes: bless from 3 or more of them"
        if threshold.value <= 0:
            return f"the threshold {threshold.value:g} is no positive number"
    return None


def _judge(
    record: Record, name: str, threshold: Threshold, commit: str, same_items: bool, chance: float
) -> Verdict:
    metric = f"{record.measurement}.{name}"
    margin = "none" if threshold.margin is None else f"{threshold.margin:.3g}"
    bound = f"{threshold.value:.6g} ± {margin}" if threshold.margin is not None else "no margin"
    found = record.values.get(name, Value(value=None))
    spec = _find_spec(record, name)
    flaw = _find_flaw(threshold, spec)
    if spec is None or flaw is not None:
        text = f"{record.cell.id}: {metric} cannot be judged by what was blessed at {commit}"
        return _verdict(metric, bound, f"{text}: {flaw}.")
    unit = f" {found.unit}" if found.unit else ""
    now = "unavailable" if found.value is None else f"{found.value:.6g}{unit}"
    change = ""
    if found.value is not None and threshold.value:
        change = f" ({found.value / threshold.value - 1:+.2%})"
    text = (
        f"{record.cell.id}: {metric} is {now}, blessed at {commit} were "
        f"{threshold.value:.6g}{unit}{change}, the margin is {margin}"
    )
    harm = _measure_harm(found, threshold, spec, record)
    identical = same_items and found.value == threshold.value
    outcome, why = _decide(record, threshold, spec, harm, identical, chance)
    smallest = bounds = None
    if harm is not None and harm.stderr:
        sign = 1 if threshold.better == "lower" else -1
        low, high = sorted(threshold.value + sign * end for end in (harm.lower, harm.upper))
        bounds = (low, high)
        text += f"; 95 % bounds {low:.6g} to {high:.6g}"
        if threshold.margin is not None:
            sure = 1 - chance / 2 if spec.sampled == "processes" else 0.95
            smallest = (
                smallest_detectable(harm.stderr, threshold.margin, harm.df, sure)
                if harm.flips is None
                else smallest_detectable_share(
                    harm.n, harm.flips, threshold.margin, 1 - FALSE_DISCOVERY_RATE / 2
                )
            )
            text += f"; harm is seen with 80 % power from {smallest:.3g} on"
    text += f"; {why}." if why else "."
    return _verdict(metric, bound, text, outcome, found.value, bounds, smallest)


def _decide(
    record: Record,
    threshold: Threshold,
    spec: ValueSpec,
    harm: _Harm | None,
    identical: bool,
    chance: float,
) -> tuple[Outcome, str]:
    """The verdict, and why where the numbers do not say it.

    ``chance`` is the p that a speed's FAIL must be below: shared among all that are blessed
    (Bonferroni), as an item is judged before the others are measured.
    """
    if harm is None:
        return "FAIL", "it is unavailable now"
    if not record.usable:
        reasons = "; ".join(record.validity.reasons)
        return "INCONCLUSIVE", f"this number is {record.validity.status}: {reasons}"
    if identical:
        return "PASS", "every item is as it was"
    if threshold.margin is None:
        sigma = threshold.spread or 0.0
        told = f"{sigma:.2%}" if spec.sampled == "processes" else f"{sigma:.2g}"
        return "INCONCLUSIVE", f"runs of one commit differ by σ = {told}: no margin would tell"
    if harm.stderr == 0 and harm.flips is None:
        return ("FAIL" if harm.harm > threshold.margin else "PASS"), ""
    outcome = judge_harm(harm.harm, harm.lower, harm.upper, threshold.margin)
    doubt = _find_doubt(record, spec, harm, chance) if outcome == "FAIL" else ""
    if doubt:
        return "INCONCLUSIVE", doubt
    if outcome != "INCONCLUSIVE":
        return outcome, ""
    if harm.flips is not None:
        return outcome, f"{harm.n:,} items do not decide it"
    if spec.sampled != "processes":
        return outcome, f"σ is of {threshold.n} blessed runs: more of them would tell it better"
    within = harm.harm <= threshold.margin
    reach = harm.upper - harm.harm if within else harm.harm - harm.lower
    enough = samples_to_decide(harm.harm, reach, harm.n, threshold.margin)
    return outcome, f"about {enough:,} processes on either side would decide" if enough else ""


def _find_doubt(record: Record, spec: ValueSpec, harm: _Harm, chance: float) -> str:
    """Why a harm beyond the margin is no regression yet; empty where it is one."""
    timed = spec.sampled == "processes"
    if timed and record.validity.reasons:
        return f"flagged: {'; '.join(record.validity.reasons)}"
    if harm.p > (chance if timed else FALSE_DISCOVERY_RATE):
        return f"equals differ as much by chance (p = {harm.p:.2g})"
    return ""


def _verdict(
    metric: str,
    bound: str,
    text: str,
    outcome: Outcome = "INCONCLUSIVE",
    value: float | None = None,
    bounds: tuple[float, float] | None = None,
    smallest: float | None = None,
) -> Verdict:
    return Verdict(
        verdict=outcome,
        metric=metric,
        bound=bound,
        value=value,
        text=text,
        against="threshold",
        bounds=bounds,
        smallest_detectable=smallest,
    )
