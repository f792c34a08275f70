"""Which answers a precision changes: a row per cell and task that has right and wrong items."""

from __future__ import annotations

from collections.abc import Iterator

from harness.catalog import load_measurement
from harness.errors import InputError
from harness.records.record import Record
from harness.records.run_file import Run
from harness.records.values import base_name, qualifier
from harness.report.document import Table, make_table
from harness.verdicts.flips import Counts, list_flips

_WORST = 3
_WORST_TITLE = "worst subjects, points lost"
_TITLES = ("changed answers", "items", "changed", "right→wrong", "wrong→right", "of them ties")


def make_changed_answers(run: Run) -> Iterator[Table]:
    """The table, with the subjects that lost most; none where nothing compares."""
    rows = [
        _make_row(record, counts, is_only=len(found) == 1)
        for record, reference in _list_pairs(run)
        for found in [_count(reference, record)]
        for counts in found
    ]
    if rows:
        titles = (*_TITLES, _WORST_TITLE) if any(row[-1] for row in rows) else _TITLES
        yield make_table(titles, rows, words=(_TITLES[0], _WORST_TITLE))


def find_worst(record: Record, metric: str) -> list[tuple[str, float]]:
    """The parts that lost most of ``metric``, the worst first; only those that lost any."""
    specs = load_measurement(record.measurement).values
    drops = {name for name, s in specs.items() if s.of == metric and s.neutral == 0 and s.per}
    lost = [
        (qualifier(name), value.value)
        for name, value in record.paired.items()
        if base_name(name) in drops and qualifier(name) and value.value and value.value > 0
    ]
    return sorted(lost, key=lambda pair: -pair[1])[:_WORST]


def _list_pairs(run: Run) -> Iterator[tuple[Record, Record]]:
    """The records that were compared with their reference, each with it."""
    references = {
        (r.cell.model, r.measurement): r
        for r in run.records
        if r.cell.precision == run.suite.get("reference") and not r.noise
    }
    for record in run.records:
        reference = references.get((record.cell.model, record.measurement))
        if record.paired and not record.noise and reference is not None:
            yield record, reference


def _count(reference: Record, record: Record) -> tuple[Counts, ...]:
    try:
        ledger = list_flips(reference, record)
    except InputError:  # a run file that was edited: `harness compare --flips` says what is wrong
        return ()
    return () if ledger is None else ledger.counts


def _make_row(record: Record, counts: Counts, is_only: bool) -> tuple[str, ...]:
    name = f"{record.cell.id} {record.measurement}"
    lost, won = counts.harmful + counts.tied_harmful, counts.beneficial + counts.tied_beneficial
    return (
        name if is_only else f"{name} {counts.metric}",
        f"{counts.items:,}",
        "—" if counts.changed is None else f"{counts.changed / max(counts.items, 1):.1%}",
        f"{lost:,}",
        f"{won:,}",
        f"{counts.tied_harmful + counts.tied_beneficial:,}",
        ", ".join(f"{name} {100 * drop:.1f}" for name, drop in find_worst(record, counts.metric)),
    )
