"""A run as two plain tables, for pandas and spreadsheets: a row per value and a row per item."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from harness.records.record import Record
from harness.records.run_file import Run
from harness.records.values import base_name, qualifier

Row = dict[str, Any]


def list_values(run: Run) -> Iterator[Row]:
    """Every value of every record, measured or compared with the reference (``paired``).

    What has no number is there too, with None, and why in ``reasons``.
    """
    for record in run.records:
        about = _describe(run, record)
        groups = ((False, record.values), (True, record.paired))
        rows = [(paired, n, v) for paired, group in groups for n, v in group.items()]
        if not rows:
            yield {**about, **dict.fromkeys(_VALUE)}
        verdicts = {v.metric.partition(".")[2]: v.verdict for v in record.verdicts}
        for paired, name, value in rows:
            low, high = value.interval or (None, None)
            lower, upper = value.bounds or (None, None)
            numbers = (value.value, value.unit, value.better, value.stderr, value.n)
            found = (base_name(name), qualifier(name), paired, *numbers, low, high, lower, upper)
            yield {**about, **dict(zip(_VALUE, (*found, value.p, verdicts.get(name)), strict=True))}


_VALUE = (
    *("name", "qualifier", "paired", "value", "unit", "better", "stderr", "n"),
    *("low", "high", "lower", "upper", "p", "verdict"),
)


def list_items(run: Run) -> Iterator[Row]:
    """Every item of every record: a question, or a chunk of a text, with what came out.

    The columns are the rows of the record's ``items``, those that hold an entry per item.
    """
    for record in run.records:
        about = _describe(run, record)
        rows = {n: r for n, r in record.items.items() if isinstance(r, (list, str))}
        count = _count_items(record.items)
        rows = {name: row for name, row in rows.items() if len(row) == count}
        subjects = _spread(record.items.get("subjects"), count)
        for i in range(count):
            own = {name: _plain(row[i]) for name, row in rows.items()}
            subject = {"subject": subjects[i]} if subjects else {}
            yield {**about, "item": i, **subject, **own}


def _describe(run: Run, record: Record) -> Row:
    cell = record.cell
    return {
        "run": run.run.id,
        "utc": run.run.utc,
        "git_sha": run.run.git_sha,
        "device": run.run.device_name or run.run.device,
        "cell": cell.id,
        "model": cell.model,
        "precision": cell.precision,
        "noise": record.noise,
        "measurement": record.measurement,
        "status": record.validity.status,
        "reasons": "; ".join(record.validity.reasons),
    }


def _count_items(items: Mapping[str, Any]) -> int:
    """The most common length of a row: some entries are sentences or tables of another kind."""
    lengths = [len(row) for row in items.values() if isinstance(row, list)]
    lengths += [len(row) for n, row in items.items() if isinstance(row, str) and n != "ids"]
    return max(lengths, key=lengths.count, default=0)


def _spread(subjects: Any, count: int) -> list[str]:
    """The subject of each item, from how many items each has in a row; [] where that is unknown."""
    if not isinstance(subjects, dict) or sum(subjects.values()) != count:
        return []
    return [name for name, number in subjects.items() for _ in range(number)]


def _plain(value: Any) -> Any:
    """Numbers and texts as they are, anything else as JSON."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain else json.dumps(value, ensure_ascii=False)
