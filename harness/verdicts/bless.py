"""Thresholds made from runs: what may be blessed, what may not and why, and what it changes.

Several runs of one commit are A/A runs: their differences are each value's spread.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, stdev

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.errors import InputError
from harness.records.find_runs import name_device
from harness.records.identity import list_differing
from harness.records.record import Record, Value
from harness.records.run_file import Run
from harness.records.values import base_name, find_spec, is_part, processes_of
from harness.statistics.estimates import Processes
from harness.statistics.nights import ENOUGH_NIGHTS, find_nights, merge_runs
from harness.verdicts.looks import as_first_seen
from harness.verdicts.threshold_verdicts import measure_harm
from harness.verdicts.thresholds import (
    SCHEMA,
    Blessed,
    Threshold,
    Thresholds,
    as_speed,
    facts_of,
    find_row,
    hash_items,
    pack_lists,
    pack_row,
    path_of,
    read_thresholds,
    write_thresholds,
)
from harness.verdicts.wording import shorten_flags

_ENOUGH_PROCESSES = 3
# Processes farther apart than this do not agree: something disturbed some of them.
_LARGEST_SPREAD = 0.10


@dataclass(frozen=True)
class Result:
    """The new thresholds, what changed in them, what was left out, what they cannot show."""

    thresholds: Thresholds
    changes: tuple[str, ...]
    left_out: tuple[str, ...]
    cautions: tuple[str, ...] = ()

    def list_lines(self, path: str) -> list[str]:
        """What a person reads after a bless; ``path`` is where the thresholds were written."""
        return [
            *(self.changes or ("no value changed",)),
            *(f"not blessed: {line}" for line in self.left_out),
            *self.cautions,
            f"thresholds: {path}: review and commit it",
        ]


def bless_runs(runs: Sequence[Run], reason: str, root: Path) -> tuple[Path, Result]:
    """Write the thresholds of these runs under ``root``; those of other cells stay.

    Returns the file and what changed in it. Raises `InputError` as `bless` does.
    """
    devices = sorted({name_device(run) for run in runs})
    if not devices:
        raise InputError("no run to bless")
    if len(devices) > 1:
        raise InputError(f"the runs are of different devices: {', '.join(devices)}")
    path = path_of(root, str(runs[-1].suite.get("name")), devices[0])
    previous = read_thresholds(path) if path.exists() else None
    when = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    result = bless(runs, devices[0], previous, reason, when)
    write_thresholds(result.thresholds, path)
    return path, result


def bless(
    runs: Sequence[Run], device: str, previous: Thresholds | None, reason: str, when: str
) -> Result:
    """Thresholds of these runs; cells and measurements that they do not have stay as they were.

    ``device`` is the slug in the runs' names. Flagged speeds, speeds of too few processes and
    speeds of processes that disagree are left out and reported; a measurement that would lose a
    threshold by that stays as it was. Raises `InputError` without a reason, for runs that cannot
    be blessed (see `_check_runs`), and where nothing can be blessed.
    """
    if not reason.strip():
        raise InputError("a reason is needed: --reason 'why these numbers are the new ones'")
    _check_runs(runs)
    suite = str(runs[-1].suite.get("name"))
    if previous is not None and (previous.suite, previous.device) != (suite, device):
        theirs = f"{previous.suite} on {previous.device}"
        raise InputError(
            f"the thresholds to be changed are of {theirs}, the runs of {suite} on {device}"
        )
    found: dict[tuple[str, str], list[tuple[Run, Record]]] = {}
    for run in runs:
        for record in run.records:
            if record.usable and not (record.reference_only or record.noise or record.reused_from):
                found.setdefault((record.cell.id, record.measurement), []).append(
                    (run, as_first_seen(record))
                )
    cells = dict(previous.cells) if previous else {}
    left_out: list[str] = []
    made = False
    for (cell, measurement), measured in found.items():
        values, lacking = _bless_records(measured)
        label = f"{cell} {measurement}"
        left_out += [f"{label}.{why}" for why in _group_reasons(lacking)]
        old = cells.get(cell, {}).get(measurement)
        lost = [name for name in lacking if old and name in old.values]
        if lost and values:
            left_out.append(
                f"{label} stays as it was: {', '.join(lost)} would no longer have a threshold; "
                "where that is meant, remove it from the file"
            )
        elif values:
            run, record = measured[-1]
            now = Blessed(
                commit=run.run.git_sha or "",
                run=run.run.id,
                runs=[one.run.id for one, _ in measured],
                utcs=[one.run.utc for one, _ in measured],
                when=when,
                reason=reason.strip(),
                items=hash_items(record),
                lists=pack_lists(record, values),
                facts=facts_of(run.environment, record),
                values=values,
            )
            cells[cell] = {**cells.get(cell, {}), measurement: now}
            made = True
    if not made:
        why = "; ".join(left_out) or "no record with a value that thresholds are kept of"
        raise InputError(f"nothing to bless: {why}")
    after = Thresholds(schema=SCHEMA, suite=suite, device=device, cells=cells)
    cautions = _list_cautions(after, found)
    return Result(after, tuple(_list_changes(previous, after)), tuple(left_out), tuple(cautions))


def _list_cautions(
    thresholds: Thresholds, found: Mapping[tuple[str, str], Sequence[tuple[Run, Record]]]
) -> list[str]:
    """Margins that this machine cannot hold, and speeds whose nights are unknown."""
    cautions: list[str] = []
    few: Counter[tuple[int, int]] = Counter()  # of how many runs and nights
    for (cell, measurement), measured in found.items():
        record = measured[-1][1]
        blessed = thresholds.find(record)
        for name, one in (blessed.values if blessed else {}).items():
            spec = find_spec(measurement, name)
            same = record.values[name].model_copy(update={"value": one.value})
            record = record.model_copy(update={"values": {**record.values, name: same}})
            assert blessed is not None
            assert spec is not None
            by_runs = blessed.model_copy(update={"lists": {}})  # chunks are equal to themselves
            harm = measure_harm(thresholds, by_runs, record, name, spec)
            if one.row is not None or harm is None or harm.bounds is None:
                continue
            if harm.night:
                few[len(one.runs), as_speed(one, blessed).nights] += 1
            if harm.bounds[1] > one.margin:
                cautions.append(
                    f"{cell} {measurement}.{name}: this machine cannot hold its margin of "
                    f"{one.margin:.3g}: equal runs differ by up to {harm.bounds[1]:.3g}"
                )
    for (runs, nights), speeds in few.items():
        made = f"{runs} run{'s' * (runs > 1)} of "
        made += "one night" if nights == 1 else f"{nights} nights"
        shows = f"show{'s' * (runs == 1)} {'nothing' if nights == 1 else 'too little'}"
        cautions.append(
            f"{made} {shows} of how nights differ: many verdicts on {speeds} speed"
            f"{'s' * (speeds > 1)} will be INCONCLUSIVE; bless runs of {ENOUGH_NIGHTS} nights"
        )
    return cautions


def _bless_records(
    found: Sequence[tuple[Run, Record]],
) -> tuple[dict[str, Threshold], dict[str, str]]:
    """The thresholds of one measurement, and why its other values have none."""
    latest = found[-1][1]
    facts = [facts_of(run.environment, record) for run, record in found]
    differing = sorted({name for one in facts for name in list_differing(one, facts[-1])})
    if differing:
        label = f"{latest.cell.id} {latest.measurement}"
        raise InputError(f"{label}: the runs differ in {', '.join(differing)}")
    values: dict[str, Threshold] = {}
    lacking: dict[str, str] = {}
    flags = [why for _, r in found if r.validity.status == "flagged" for why in r.validity.reasons]
    nights = find_nights([run.run.utc for run, _ in found])
    for name, spec, value in _list_judged(latest):
        samples = [record.values.get(name) for _, record in found]
        made = _make_threshold(spec, value, samples, nights)
        row = find_row(latest, spec)
        if flags and spec.sampled == "processes":
            lacking[name] = f"flagged, and a flagged speed is no anchor: {shorten_flags(flags)}"
        elif isinstance(made, str):
            lacking[name] = made
        elif row is None and not any(one in latest.items for one in spec.lists):
            values[name] = made
        else:  # compared item by item or chunk by chunk with the latest run
            kept = {"value": value.value, "row": row and pack_row(row)}
            values[name] = made.model_copy(update=kept)
    return values, lacking


def _group_reasons(lacking: Mapping[str, str]) -> list[str]:
    """A line per reason, with the names of the values that have it."""
    names = {why: [n for n, other in lacking.items() if other == why] for why in lacking.values()}
    return [f"{', '.join(of)}: {why}" for why, of in names.items()]


def _list_judged(record: Record) -> list[tuple[str, ValueSpec, Value]]:
    """The values that thresholds are kept of: totals rather than their parts."""
    specs = load_measurement(record.measurement).values
    found = ((name, specs.get(base_name(name)), value) for name, value in record.values.items())
    return [
        (name, spec, value)
        for name, spec, value in found
        if spec and spec.margin and spec.better and not is_part(name, record.values)
    ]


def _check_runs(runs: Sequence[Run]) -> None:
    """Raise `InputError` unless all are finished, clean, sound, distinct and of one kind."""
    for place, run in enumerate(runs):
        facts = run.run
        for is_wrong, why in (
            (facts.interrupted, "was interrupted: run the suite to its end"),
            (facts.git_sha is None, "is of no commit: thresholds name the commit they are from"),
            (facts.git_dirty, "is of a dirty tree: commit first, then measure again"),
            (run in runs[:place], "was given twice: a copy does not show how runs differ"),
        ):
            if is_wrong:
                raise InputError(f"{facts.id} {why}")
        for record in run.records:
            status, reasons = record.validity.status, "; ".join(record.validity.reasons)
            if status in ("invalid", "failed"):
                label = f"{record.cell.id} {record.measurement}"
                raise InputError(f"{facts.id}: {label} is {status}: {reasons}")
            for verdict in record.verdicts:
                if verdict.verdict == "FAIL" and verdict.against == "limit":
                    raise InputError(f"{facts.id} breaks a limit of its suite: {verdict.text}")
    for what, found in (
        ("suites", {str(run.suite.get("sha256")) for run in runs}),
        ("commits", {run.run.git_sha for run in runs}),
        ("devices", {run.run.device for run in runs}),
    ):
        if len(found) > 1:
            raise InputError(f"the runs are of different {what}: bless runs of one only")


def _make_threshold(
    spec: ValueSpec, latest: Value, samples: Sequence[Value | None], nights: Sequence[str]
) -> Threshold | str:
    """The threshold, or why there can be none; ``nights`` are those of the samples."""
    assert spec.margin is not None
    assert spec.better is not None
    known = [one for one in samples if one is not None and one.value is not None]
    if len(known) < len(samples) or latest.value is None:
        return "unavailable"
    margin = spec.margin.of
    if spec.sampled != "processes":
        numbers = [one.value for one in known if one.value is not None]
        spread = stdev(numbers) if len(numbers) > 1 else None
        value = latest.value if len(set(numbers)) == 1 else fmean(numbers)
        return Threshold(
            value=value,
            unit=latest.unit,
            better=spec.better,
            margin=margin(value),
            spread=spread,
            n=len(numbers),
        )
    runs = [made for one in known if (made := processes_of(one)) is not None]
    if len(runs) < len(known):
        return "a speed of 0 in one of its runs"
    n = sum(run.n for run in runs)
    if n < _ENOUGH_PROCESSES:
        return f"{n} processes, {_ENOUGH_PROCESSES} are needed, of one run or of several"
    widest = max(_list_spreads(runs))
    if widest > _LARGEST_SPREAD:
        return f"its processes differ by {widest:.0%}, which is no agreement"
    grouped: dict[str, list[Processes]] = {}
    for run, night in zip(runs, nights, strict=True):
        grouped.setdefault(night, []).append(run)
    merged = [merge_runs(group) for group in grouped.values()]
    speed = math.exp(fmean(math.log(night.mean) for night in merged))
    within = [(night.spread**2, night.n - 1) for night in merged if night.spread is not None]
    df = sum(own for _, own in within)
    return Threshold(
        value=speed,
        unit=latest.unit,
        better=spec.better,
        margin=margin(speed),
        spread=math.sqrt(sum(s * own for s, own in within) / df) if df else None,
        n=n,
        runs=[run.mean for run in runs],
    )


def _list_spreads(runs: Sequence[Processes]) -> list[float]:
    """Those within the runs and, of several, the one between them."""
    logs = [math.log(run.mean) for run in runs]
    between = [stdev(logs)] if len(logs) > 1 else []
    return [run.spread for run in runs if run.spread is not None] + between


def _list_changes(before: Thresholds | None, after: Thresholds) -> list[str]:
    """A line per value that is new, changed or gone, and what became of its margin."""
    was, now = _flatten(before), _flatten(after)
    return [
        f"{label}: {_describe_change(was.get(label), now.get(label))}"
        for label in sorted({*was, *now})
        if was.get(label) != now.get(label)
    ]


def _flatten(thresholds: Thresholds | None) -> Mapping[str, Threshold]:
    return {
        f"{cell} {measurement}.{name}": threshold
        for cell, measurements in (thresholds.cells if thresholds else {}).items()
        for measurement, blessed in measurements.items()
        for name, threshold in blessed.values.items()
    }


def _describe_change(was: Threshold | None, now: Threshold | None) -> str:
    if was is None or now is None:
        one = was or now
        assert one is not None
        return f"{'new,' if was is None else 'gone, was'} {one.value:.6g} {one.unit}".rstrip()
    share = f" ({now.value / was.value - 1:+.2%})" if was.value else ""
    unit = f" {now.unit}" if now.unit else ""
    worse = (now.value > was.value) == (now.better == "lower")
    side = "the same" if now.value == was.value else "looser" if worse else "tighter"
    margins = [f"{one.margin:.3g}" for one in (was, now)]
    return f"{was.value:.6g} → {now.value:.6g}{unit}{share}, {side}; margin {' → '.join(margins)}"
