"""What a run is judged by beside its suite's limits: committed thresholds, or an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.comparability import find_differences
from harness.compare import Compared, compare_records
from harness.errors import InputError
from harness.record import Record, Run, Verdict
from harness.run_sources import (
    find_runs,
    list_at_revision,
    list_run_files,
    read_at_revision,
    resolve_revision,
)
from harness.thresholds import (
    FOLDER,
    Thresholds,
    judge_thresholds,
    list_unmeasured,
    parse_thresholds,
    path_of,
    propose_tighter,
    read_thresholds,
)


@dataclass(frozen=True)
class Baseline:
    """Thresholds or an earlier run, and what it is called."""

    name: str
    stored: Thresholds | Run

    def judge(self, now: Run, record: Record) -> tuple[Verdict, ...]:
        """The verdicts on one record of run ``now``; none where the baseline does not have it."""
        if isinstance(self.stored, Thresholds):
            return judge_thresholds(self.stored, now.environment, record)
        return self._judge_by_run(self.stored, now, record)

    def remarks(self, environment: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
        """What should be blessed anew, and how much of the baseline was not measured."""
        if isinstance(self.stored, Run):
            return []
        proposals = propose_tighter(self.stored, environment, records)
        lost = list_unmeasured(self.stored, records)
        if not lost:
            return proposals
        named = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
        return [*proposals, f"{len(lost)} of the blessed measurements were not made: {named}"]

    def _judge_by_run(self, earlier: Run, now: Run, record: Record) -> tuple[Verdict, ...]:
        key = (record.cell.id, record.measurement)
        alike = [r for r in earlier.records if (r.cell.id, r.measurement) == key and not r.noise]
        before = alike[0] if alike else None
        if before is None or not before.usable or not record.usable or record.noise:
            return ()
        differences = find_differences(earlier, before, now, record)
        if differences:
            fields = ", ".join(map(str, differences))
            text = (
                f"{record.cell.id} {record.measurement} is incomparable with {self.name}: {fields}"
            )
            return (
                Verdict(
                    verdict="INCONCLUSIVE",
                    metric=record.measurement,
                    bound=self.name,
                    value=None,
                    text=text,
                    against="run",
                ),
            )
        return tuple(_to_verdict(self.name, one) for one in compare_records(before, record))


def find_baseline(against: str | None, suite: str, device: str, root: Path) -> Baseline | None:
    """What ``--against`` names: a file, a revision, ``none``; by default this device's thresholds.

    A revision stands for the thresholds committed there, or else for its newest run of the suite.
    Raises `InputError` for what cannot be found or read.
    """
    own = path_of(root, suite, device)
    if against is None:
        return Baseline(_short(own, root), read_thresholds(own)) if own.exists() else None
    if against == "none":
        return None
    path = Path(against)
    if path.is_file() and names_thresholds(against, root):
        return Baseline(against, read_thresholds(path))
    if not path.exists():
        revision = resolve_revision(against, root)
        name = str(FOLDER / suite / f"{device}.json")
        content = read_at_revision(root, revision, name)
        if content is not None:
            where = f"{against}:{name}"
            return Baseline(where, parse_thresholds(content, where))
    same = [found for found in find_runs(against, root) if found.run.suite.get("name") == suite]
    if not same:
        raise InputError(f"--against {against}: no run of suite {suite!r} there")
    return Baseline(same[-1].name, same[-1].run)


def names_thresholds(argument: str, root: Path) -> bool:
    """Whether it is a file of thresholds, or a revision that has thresholds and no run file.

    Raises `InputError` for what is neither a path nor a revision.
    """
    path = Path(argument)
    if not path.exists():
        committed = list_at_revision(root, resolve_revision(argument, root))
        kept = [name for name in committed if name.startswith(f"{FOLDER}/")]
        return bool(kept) and not list_run_files(committed)
    try:
        data = json.loads(path.read_bytes()) if path.is_file() else None
    except ValueError:
        return False
    return isinstance(data, dict) and "cells" in data


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _to_verdict(name: str, one: Compared) -> Verdict:
    change = f"{one.change - 1:+.2%}" if one.is_ratio else f"{one.change:+.4g}"
    text = f"{one.cell}: {one.measurement}.{one.value} changed by {change} since {name}"
    if one.interval is not None:
        low, high = one.interval
        text += f" (95 % interval {low:.4g} to {high:.4g})"
    margin = f"{one.margin:.2%}" if one.is_ratio else f"{one.margin:.4g}"
    text += f", the margin is {margin}"
    return Verdict(
        verdict="PASS" if one.verdict == "IDENTICAL" else one.verdict,
        metric=f"{one.measurement}.{one.value}",
        bound=name,
        value=one.b,
        text=f"{text}; {one.reason}." if one.reason else f"{text}.",
        against="run",
        smallest_detectable=one.smallest_detectable,
    )
