"""Thresholds made of runs: what may be blessed, what may not and why, and what it changes. Pure.

Several runs of one commit are A/A runs: how they differ is each value's spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from harness.errors import InputError
from harness.metrics._speed_processes import processes_of
from harness.options import ValueSpec
from harness.record import Record, Run, Value
from harness.statistics import Processes
from harness.thresholds import Blessed, Threshold, Thresholds, facts_of, hash_items, list_judged

ENOUGH_PROCESSES = 3
# Processes farther apart than this do not agree: something disturbed some of them.
LARGEST_SPREAD = 0.10
# A margin that must grow beyond so many times what is declared says nothing any more.
USELESS = 5.0


@dataclass(frozen=True)
class Result:
    """The new thresholds, what changed in them, and what was left out and why."""

    thresholds: Thresholds
    changes: tuple[str, ...]
    left_out: tuple[str, ...]


def bless(
    runs: Sequence[Run], device: str, previous: Thresholds | None, reason: str, when: str
) -> Result:
    """Thresholds of these runs; cells and measurements that they do not have stay as they were.

    ``device`` is the slug in the runs' names. Raises `InputError` for runs that cannot be blessed:
    interrupted, of a dirty tree or no commit, of different suites, commits or devices, with a
    record that is invalid or failed, or that breaks a limit; without a reason; and where nothing
    can be blessed. Speeds of too few processes, or of such that disagree, are left out and told.
    """
    if not reason.strip():
        raise InputError("a reason is needed: --reason 'why these numbers are the new ones'")
    _check_runs(runs)
    first = runs[-1]
    blessed: dict[str, dict[str, Blessed]] = {}
    left_out: list[str] = []
    for record in first.records:
        if record.reference_only or record.noise or record.reused_from or not record.usable:
            continue
        values = _bless_record(runs, record, left_out)
        if values:
            blessed.setdefault(record.cell.id, {})[record.measurement] = Blessed(
                commit=first.run.git_sha or "",
                run=first.run.id,
                when=when,
                reason=reason.strip(),
                items=hash_items(record),
                facts=facts_of(first.environment, record),
                values=values,
            )
    if not blessed:
        why = "; ".join(left_out) or "no record with a value that thresholds are kept of"
        raise InputError(f"nothing to bless: {why}")
    cells = dict(previous.cells) if previous else {}
    for cell, measurements in blessed.items():
        cells[cell] = {**cells.get(cell, {}), **measurements}
    made_of = Thresholds(schema=1, suite=_name(first), device=device, cells=cells)
    return Result(made_of, tuple(_list_changes(previous, made_of)), tuple(left_out))


def _bless_record(runs: Sequence[Run], record: Record, left_out: list[str]) -> dict[str, Threshold]:
    """The thresholds of one measurement; adds to ``left_out`` what has none, and why."""
    label = f"{record.cell.id} {record.measurement}"
    alike = [(run, _find(run, record)) for run in runs]
    found = [(run, other) for run, other in alike if other is not None and other.usable]
    if len(found) < len(runs):
        left_out.append(f"{label}: not every run has it")
        return {}
    facts = [facts_of(run.environment, other) for run, other in found]
    differing = sorted({name for f in facts for name in f if f.get(name) != facts[-1].get(name)})
    if differing:
        raise InputError(f"{label}: the runs differ in {', '.join(differing)}")
    values = {}
    for name, spec, value in list_judged(record):
        samples = [other.values.get(name, Value(value=None)) for _, other in found]
        made = _make_threshold(spec, value, samples)
        if isinstance(made, Threshold):
            values[name] = made
        else:
            left_out.append(f"{label}.{name}: {made}")
    return values


def _check_runs(runs: Sequence[Run]) -> None:
    for run in runs:
        name = run.run.id
        if run.run.interrupted:
            raise InputError(f"{name} was interrupted: run the suite to its end")
        if run.run.git_sha is None:
            raise InputError(f"{name} is of no commit: thresholds name the commit they are from")
        if run.run.git_dirty:
            raise InputError(f"{name} is of a dirty tree: commit first, then measure again")
        for record in run.records:
            if record.validity.status in ("invalid", "failed"):
                reasons = "; ".join(record.validity.reasons)
                raise InputError(
                    f"{name}: {record.cell.id} {record.measurement} is "
                    f"{record.validity.status}: {reasons}"
                )
            broken = [
                v.text for v in record.verdicts if v.verdict == "FAIL" and v.against == "limit"
            ]
            if broken:
                raise InputError(f"{name} breaks a limit of its suite: {broken[0]}")
    for what, found in (
        ("suites", {str(run.suite.get("sha256")) for run in runs}),
        ("commits", {run.run.git_sha for run in runs}),
        ("devices", {run.run.device for run in runs}),
    ):
        if len(found) > 1:
            raise InputError(f"the runs are of different {what}: bless runs of one only")


def _make_threshold(spec: ValueSpec, latest: Value, samples: Sequence[Value]) -> Threshold | str:
    """The threshold, or why there can be none."""
    assert spec.margin is not None
    assert spec.better is not None
    numbers = [value.value for value in samples if value.value is not None]
    if len(numbers) < len(samples) or latest.value is None:
        return "unavailable"
    if spec.sampled == "processes":
        processes = _pool([made for value in samples if (made := processes_of(value))])
        if processes is None or processes.n < ENOUGH_PROCESSES:
            found = 0 if processes is None else processes.n
            return f"{found} processes, {ENOUGH_PROCESSES} are needed: `processes: 3` or more runs"
        spread = processes.spread or 0.0
        if spread > LARGEST_SPREAD:
            return f"its processes differ by {spread:.0%}, which is no agreement"
        sigma = spread / math.sqrt(processes.n) * processes.mean
        margin = _resolve_margin(spec, processes.mean, sigma)
        return _threshold(spec, latest.unit, processes.mean, margin, spread, processes.n)
    spread_or_none = stdev(numbers) if len(numbers) > 1 else None
    value = latest.value if len(set(numbers)) == 1 else fmean(numbers)
    margin = _resolve_margin(spec, value, spread_or_none or 0.0)
    return _threshold(spec, latest.unit, value, margin, spread_or_none, len(numbers))


def _threshold(
    spec: ValueSpec, unit: str, value: float, margin: float | None, spread: float | None, n: int
) -> Threshold:
    assert spec.better is not None
    return Threshold(value=value, unit=unit, better=spec.better, margin=margin, spread=spread, n=n)


def _resolve_margin(spec: ValueSpec, value: float, sigma: float) -> float | None:
    """The larger of what is declared and 3 σ of A/A runs; None where that would say nothing."""
    assert spec.margin is not None
    declared = spec.margin.of(value)
    return None if 3 * sigma > USELESS * declared else max(declared, 3 * sigma)


def _pool(runs: Sequence[Processes]) -> Processes | None:
    """All runs' processes as one group: their mean, the larger of the spreads within and between.

    Runs of one process each are themselves the processes.
    """
    if not runs:
        return None
    n = sum(run.n for run in runs)
    logs = [math.log(run.mean) for run in runs]
    mean = math.fsum(run.n * log for run, log in zip(runs, logs)) / n
    within = [run.spread**2 for run in runs if run.spread is not None]
    variances = [fmean(within)] if within else []
    if len(runs) > 1:
        variances.append(stdev(logs) ** 2 * n / len(runs))
    return Processes(math.exp(mean), math.sqrt(max(variances)) if variances else None, n)


def _find(run: Run, like: Record) -> Record | None:
    for record in run.records:
        same = (record.cell.id, record.measurement) == (like.cell.id, like.measurement)
        if same and not record.noise:
            return record
    return None


def _name(run: Run) -> str:
    return str(run.suite.get("name"))


def _list_changes(before: Thresholds | None, after: Thresholds) -> list[str]:
    """A line per value that is new or another, and what became of its margin."""
    lines = []
    known: Mapping[str, Mapping[str, Blessed]] = before.cells if before else {}
    for cell, measurements in sorted(after.cells.items()):
        for measurement, blessed in sorted(measurements.items()):
            old = known.get(cell, {}).get(measurement)
            for name, threshold in sorted(blessed.values.items()):
                label = f"{cell} {measurement}.{name}"
                was = old.values.get(name) if old else None
                if was is None:
                    lines.append(f"{label}: new, {threshold.value:.6g} {threshold.unit}".rstrip())
                elif was != threshold:
                    lines.append(f"{label}: {_describe_change(was, threshold)}")
    return lines


def _describe_change(was: Threshold, now: Threshold) -> str:
    share = f" ({now.value / was.value - 1:+.2%})" if was.value else ""
    worse = (now.value > was.value) == (now.better == "lower")
    side = "the same" if now.value == was.value else "looser" if worse else "tighter"
    margins = [f"{m:.3g}" if m is not None else "none" for m in (was.margin, now.margin)]
    return (
        f"{was.value:.6g} → {now.value:.6g} {now.unit}{share}, {side}; margin {' → '.join(margins)}"
    )
