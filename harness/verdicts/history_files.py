"""Every value's observations over time, from the run files in a folder."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from harness.errors import InputError
from harness.records.find_runs import name_device
from harness.records.identity import identify_series, list_suspects
from harness.records.record import Record, Value
from harness.records.run_file import Run, read_run
from harness.records.values import base_name, find_spec
from harness.verdicts.history import Observation, Series, divide
from harness.verdicts.looks import as_first_seen

_KNOWN = ("suite", "cell", "metric", "commit")
_Key = tuple[str, str]  # a suite and a device, or a cell and a metric
_Observed = tuple[Value, Observation]


@dataclass(frozen=True)
class Wanted:
    """What was asked for, empty for everything; metrics are ``measurement.value[qualifier]``.

    ``accepted`` are beginnings of commits' hashes, with which every series begins anew.
    """

    suites: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()

    def has_record(self, record: Record) -> bool:
        """Whether any value of this record may be wanted."""
        if self.cells and record.cell.id not in self.cells:
            return False
        prefix = f"{record.measurement}."
        return not self.metrics or any(metric.startswith(prefix) for metric in self.metrics)

    def has_value(self, metric: str) -> bool:
        """Whether this value is wanted: those named, else those that thresholds are kept of."""
        if self.metrics:
            return metric in self.metrics or base_name(metric) in self.metrics
        spec = find_spec(*metric.split(".", 1))
        return spec is not None and spec.margin is not None and not spec.paired


@dataclass(frozen=True)
class Group:
    """The runs of one suite on one device: how many, of when, and the series of their values."""

    suite: str
    device: str
    runs: int
    dirty: int
    first: str
    last: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class History:
    """What a folder holds.

    ``left_out`` counts records and values without a number, by reason; ``unreadable`` says what is
    wrong with each file that could not be read, ``others`` counts JSON files that are not run
    files; ``known`` holds the names of all suites, cells, metrics and commits found.
    """

    groups: tuple[Group, ...]
    left_out: Mapping[str, int]
    unreadable: tuple[str, ...]
    others: int
    known: Mapping[str, set[str]]


def read_history(folder: Path, wanted: Wanted, last: int | None = None) -> History:
    """All run files below ``folder``, or the ``last`` of each suite and device.

    A second copy of a run counts once, and so does a number that later runs took over.
    """
    unreadable: list[str] = []
    others = 0

    def read() -> Iterator[tuple[Run, str]]:
        nonlocal others
        for path in sorted(folder.rglob("*.json")):
            try:
                run = read_run(path)
                utc = _normalise_utc(run.run.utc)
            except ValueError as error:
                if _is_run_file(path):
                    unreadable.append(str(error) if str(path) in str(error) else f"{path}: {error}")
                else:
                    others += 1
                continue
            yield run, utc

    left_out: Counter[str] = Counter()
    known: dict[str, set[str]] = {what: set() for what in _KNOWN}
    groups = _group(read(), wanted, last, left_out, known)
    return History(groups, left_out, tuple(unreadable), others, known)


def group_runs(runs: Iterable[Run]) -> tuple[Group, ...]:
    """The series of the values that thresholds are kept of; the runs in any order.

    Raises `InputError` for a run file whose time was edited.
    """
    try:
        dated = [(run, _normalise_utc(run.run.utc)) for run in runs]
    except ValueError as error:
        raise InputError(f"a run's time is not as written: {error}; was a file edited?") from error
    known: dict[str, set[str]] = {what: set() for what in _KNOWN}
    return _group(dated, Wanted(), None, Counter(), known)


def _group(
    runs: Iterable[tuple[Run, str]],
    wanted: Wanted,
    last: int | None,
    left_out: Counter[str],
    known: Mapping[str, set[str]],
) -> tuple[Group, ...]:
    """The groups of runs with their times; counts what has no number, keeps every name."""
    seen: defaultdict[_Key, dict[str, tuple[str, bool]]] = defaultdict(dict)
    values: defaultdict[_Key, defaultdict[_Key, list[_Observed]]]
    values = defaultdict(lambda: defaultdict(list))
    for run, utc in runs:
        suite = str(run.suite.get("name"))
        known["suite"].add(suite)
        known["commit"].add(run.run.git_sha or "")
        key = suite, name_device(run)
        if (not wanted.suites or suite in wanted.suites) and run.run.id not in seen[key]:
            seen[key][run.run.id] = (utc, bool(run.run.git_dirty))
            for where, observed in _observe(run, utc, wanted, left_out, known):
                values[key][where].append(observed)
    return tuple(
        _make_group(*key, sorted(times.values())[-(last or 0) :], values[key], wanted.accepted)
        for key, times in sorted(seen.items())
    )


def _observe(
    run: Run, utc: str, wanted: Wanted, left_out: Counter[str], known: Mapping[str, set[str]]
) -> Iterator[tuple[_Key, _Observed]]:
    """Each wanted value of a run; what has no number is counted, every name kept in ``known``."""
    for record in (as_first_seen(record) for record in run.records if not record.noise):
        found = {
            f"{record.measurement}.{name}": value
            for name, value in (*record.values.items(), *record.paired.items())
        }
        known["cell"].add(record.cell.id)
        known["metric"].update(found)
        if not wanted.has_record(record):
            continue
        if not record.usable:
            left_out[f"records {record.validity.status}"] += 1
            continue
        identity, suspects = identify_series(record), list_suspects(run.environment, record)
        for metric, value in found.items():
            if not wanted.has_value(metric):
                continue
            if value.value is None:
                left_out["values unavailable"] += 1
                continue
            name, facts = record.reused_from or run.run.id, (run.run.git_sha, run.run.git_dirty)
            observation = Observation(name, utc, *facts, value.value, identity, suspects)
            yield (record.cell.id, metric), (value, observation)


def _make_group(
    suite: str,
    device: str,
    seen: Sequence[tuple[str, bool]],
    values: Mapping[_Key, Sequence[_Observed]],
    accepted: Sequence[str],
) -> Group:
    """``seen``: when each run was, and whether on a changed work tree, oldest first."""
    series = []
    for (cell, metric), found in values.items():
        observations = _order([one for _, one in found], since=seen[0][0])
        if not observations:
            continue
        spec, value = find_spec(*metric.split(".", 1)), found[-1][0]
        timed = spec is not None and spec.sampled == "processes"
        segments = divide(observations, timed, accepted)
        margin = spec.margin if spec else None
        series.append(
            Series(suite, device, cell, metric, value.unit, value.better, margin, segments)
        )
    dirty = sum(is_dirty for _, is_dirty in seen)
    return Group(suite, device, len(seen), dirty, seen[0][0], seen[-1][0], tuple(series))


def _order(observations: Sequence[Observation], since: str) -> list[Observation]:
    """Oldest first; a number that later runs took over from an earlier one counts once."""
    newest_first = sorted(observations, key=lambda one: (one.utc, one.run), reverse=True)
    first = {one.run: one for one in newest_first}
    return [one for one in reversed(first.values()) if one.utc >= since]


def _is_run_file(path: Path) -> bool:
    """Whether an unreadable file is a damaged run file, and not JSON of another kind."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return True
    return not isinstance(data, dict) or bool({"run", "records"} & data.keys())


def _normalise_utc(text: str) -> str:
    """The time in one form, so that it can be sorted; raises ValueError."""
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    time = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return time.astimezone(timezone.utc).isoformat(timespec="seconds")
