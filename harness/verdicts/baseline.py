"""What a run is judged against besides its suite's limits: thresholds, or an earlier run."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.catalog import load_measurement
from harness.errors import InputError
from harness.records.find_runs import (
    Found,
    find_runs,
    list_at_revision,
    list_run_files,
    name_device,
    read_at_revision,
    resolve_revision,
)
from harness.records.record import Outcome, Record, Validity, Verdict
from harness.records.run_file import Run
from harness.verdicts.compare import Compared, compare_pair, count_tested
from harness.verdicts.decide import FALSE_ALARMS
from harness.verdicts.looks import as_first_seen
from harness.verdicts.threshold_verdicts import judge_thresholds, propose_tighter
from harness.verdicts.thresholds import (
    FOLDER,
    Thresholds,
    find_changes,
    list_unmeasured,
    parse_thresholds,
    path_of,
    read_thresholds,
)
from harness.verdicts.wording import SEEN_FROM, describe_refusal, show_change, show_size

# Raised for a record or threshold that a person has edited.
NOT_AS_WRITTEN = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


@dataclass(frozen=True)
class Baseline:
    """Thresholds or an earlier run, what it is called, and what may differ from it.

    ``confirms``: speeds that do not pass by thresholds will be measured again beside what was
    blessed.
    """

    name: str
    stored: Thresholds | Run
    allow: tuple[str, ...] = ()
    confirms: bool = False

    def judge(self, now: Run, record: Record) -> tuple[Verdict, ...]:
        """The verdicts on one record of run ``now``; none where the baseline does not have it.

        None either for a reference that nobody asked for: no item would fail by it. Processes that
        a limit added do not count: nights are what limits such a verdict.
        """
        record = as_first_seen(record)
        if record.reference_only:
            return ()
        try:
            if isinstance(self.stored, Thresholds):
                return judge_thresholds(
                    self.stored, now.environment, record, self.allow, self.confirms
                )
            return tuple(self._judge_by_run(self.stored, now, record))
        except NOT_AS_WRITTEN as error:  # what was measured is kept, whatever the baseline holds
            text = (
                f"{record.cell.id} {record.measurement} cannot be judged by {self.name}: a field "
                f"is not as the harness writes it ({type(error).__name__}: {error})"
            )
            return (self._without_value(record.measurement, text),)

    def remarks(self, environment: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
        """What should be blessed anew, and how much of the baseline was not measured."""
        if isinstance(self.stored, Run):
            judged = any(v.against == "run" for record in records for v in record.verdicts)
            return [] if judged else [f"nothing here is in {self.name}: nothing was judged by it"]
        proposals = propose_tighter(self.stored, environment, map(as_first_seen, records))
        lost = list_unmeasured(self.stored, records)
        if not lost:
            return proposals
        named = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
        return [*proposals, f"{len(lost)} of the blessed measurements were not made: {named}"]

    def judge_lost(self, records: Sequence[Record]) -> list[Verdict]:
        """For thresholds: FAIL for what failed now, INCONCLUSIVE for what is missing."""
        if isinstance(self.stored, Run):
            return []
        found = {(r.cell.id, r.measurement): r.validity for r in records if not r.noise}
        lost = []
        for cell, measurements in self.stored.cells.items():
            for name in measurements:
                validity = found.get((cell, name), Validity(status="skipped"))
                if validity.status not in ("failed", "skipped"):
                    continue
                why = "was skipped" if (cell, name) in found else "was not measured"
                outcome: Outcome = "INCONCLUSIVE"
                if validity.status == "failed":
                    why, outcome = f"failed: {'; '.join(validity.reasons)}", "FAIL"
                text = f"{cell} {name} {why}; {self.name} has thresholds of it"
                lost.append(self._without_value(name, text, outcome))
        return lost

    def has_changed(self, run: Run) -> bool:
        """Whether one of the records answers another question than its thresholds do."""
        return isinstance(self.stored, Thresholds) and any(
            blessed is not None
            and find_changes(blessed, run.environment, record, self.allow).refused
            for record in run.records
            for blessed in [None if record.noise else self.stored.find(record)]
        )

    def _judge_by_run(self, earlier: Run, now: Run, record: Record) -> Iterator[Verdict]:
        """As `harness compare` judges this record, but for how it allows for many values.

        An item is judged before the next is measured, so the error is divided (Bonferroni).
        """
        key = (record.cell.id, record.measurement)
        alike = [r for r in earlier.records if (r.cell.id, r.measurement) == key and not r.noise]
        if not alike or not record.usable or record.noise:
            return
        timed = load_measurement(record.measurement).timed
        largest_p = FALSE_ALARMS / max(1, count_tested(earlier, speeds=timed))
        found = compare_pair(earlier, now, key, alike[0], record, self.allow, largest_p)
        label = " ".join(key)
        yield from (_to_verdict(self.name, one) for one in found.compared)
        for lost in found.missing:
            text = f"{label}: {lost.reason} (A is {self.name})"
            yield self._without_value(record.measurement, text, lost.verdict)
        for refused in found.refused:
            text = describe_refusal(label, self.name, refused.differences, refused.values)
            yield self._without_value(record.measurement, text)

    def _without_value(self, metric: str, text: str, outcome: Outcome = "INCONCLUSIVE") -> Verdict:
        against: Literal["threshold", "run"] = (
            "run" if isinstance(self.stored, Run) else "threshold"
        )
        return Verdict(
            verdict=outcome, metric=metric, bound=self.name, value=None, text=text, against=against
        )


def find_baseline(
    against: str | None,
    suite: str,
    device: str,
    root: Path,
    allow: Iterable[str] = (),
    confirms: bool = False,
) -> Baseline | None:
    """What ``--against`` names: a file, a revision, ``none``; by default this device's thresholds.

    A revision means the thresholds committed there, or else its newest run of the suite. ``allow``
    names fields that may differ; ``confirms`` see `Baseline`. Raises `InputError` for what
    cannot be found or read.
    """
    found = _find_stored(against, suite, device, root)
    return None if found is None else Baseline(*found, tuple(dict.fromkeys(allow)), confirms)


def _find_stored(
    against: str | None, suite: str, device: str, root: Path
) -> tuple[str, Thresholds | Run] | None:
    own = path_of(root, suite, device)
    name = str(own.relative_to(root))
    if against == "none" or (against is None and not own.exists()):
        return None
    if against is None:
        return name, _check_of(name, read_thresholds(own), suite, device)
    path = Path(against)
    if path.is_file() and names_thresholds(against, root):
        return against, _check_of(against, read_thresholds(path), suite, device)
    if not path.exists():
        content = read_at_revision(root, resolve_revision(against, root), name)
        if content is not None:
            where = f"{against}:{name}"
            return where, _check_of(where, parse_thresholds(content, where), suite, device)
    found = pick_run(find_runs(against, root), suite, device)
    if found is None:
        raise InputError(f"--against {against}: no run of suite {suite!r} there")
    return found.name, found.run


def pick_run(found: Sequence[Found], suite: str, device: str) -> Found | None:
    """The newest run of a suite, of the same device where there is one; None without any."""
    same = [one for one in found if one.run.suite.get("name") == suite]
    same = [one for one in same if name_device(one.run) == device] or same
    return max(same, key=lambda one: one.run.run.utc, default=None)


def names_thresholds(argument: str, root: Path) -> bool:
    """Whether it is a file of thresholds, or a revision that has thresholds and no run file.

    Raises `InputError` for what is neither a path nor a revision.
    """
    path = Path(argument)
    if not path.exists():
        committed = list_at_revision(root, resolve_revision(argument, root))
        kept = [name for name in committed if name.startswith(f"{FOLDER}/")]
        return bool(kept) and not list_run_files(committed)
    content = path.read_bytes() if path.is_file() else b"null"
    try:
        data = json.loads(content)
    except ValueError:  # it is damaged: of the two, only thresholds begin like this
        return re.match(rb'\s*{\s*"schema":\s*\d+,\s*"suite":\s*"', content) is not None
    return isinstance(data, dict) and "cells" in data


def _check_of(name: str, stored: Thresholds, suite: str, device: str) -> Thresholds:
    for what, theirs, ours in (("suite", stored.suite, suite), ("device", stored.device, device)):
        if theirs != ours:
            raise InputError(f"{name} holds thresholds of {what} {theirs!r}, this is {ours!r}")
    return stored


def _to_verdict(name: str, one: Compared) -> Verdict:
    """The sentence has one interval, that of the change."""
    change = show_change(one.change, one.is_ratio)
    text = f"{one.cell}: {one.measurement}.{one.value} changed by {change} since {name}"
    if one.interval is not None:
        low, high = (show_change(end, one.is_ratio) for end in one.interval)
        text += f" (95 % interval {low} to {high})"
    text += f", the margin is {show_size(one.margin, one.is_ratio)}"
    if one.smallest_detectable is not None:
        text += f"; {SEEN_FROM} {show_size(one.smallest_detectable, one.is_ratio)} on"
    text += f"; {one.reason}" if one.reason else ""
    return Verdict(
        verdict="PASS" if one.verdict == "IDENTICAL" else one.verdict,
        metric=f"{one.measurement}.{one.value}",
        bound=name,
        value=one.b,
        text=f"{text}{one.suspects}.",
        against="run",
        smallest_detectable=one.smallest_detectable,
        enough=one.enough,
    )
