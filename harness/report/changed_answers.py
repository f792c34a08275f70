"""Which answers a precision changes: a row per cell and task that has right and wrong items."""

from collections.abc import Iterator

from harness.catalog import load_measurement
from harness.errors import InputError
from harness.records.record import Record
from harness.records.run_file import Run
from harness.records.values import base_name, qualifier
from harness.report.document import Table, make_table
from harness.report.matrix import name_cells
from harness.verdicts.flips import Counts, list_flips, list_pairs

_WORST = 3
_WORST_TITLE = "worst subjects, points lost"
_TITLES = ("changed answers", "items", "changed", "right→wrong", "wrong→right", "of them ties")


def make_changed_answers(run: Run) -> Iterator[Table]:
    """The table, with the subjects that lost most; none where nothing compares."""
    rows: list[tuple[str, ...]] = []
    _, name_cell = name_cells(run)
    for reference, record in list_pairs(run):
        try:
            ledger = list_flips(reference, record)
        except InputError:  # edited: `harness compare --flips` says what is wrong
            continue
        counts = ledger.counts if ledger else ()
        name = f"{name_cell(record)} {record.measurement}"
        for one in counts:
            full = name if len(counts) == 1 else f"{name} {one.metric}"
            rows.append((full, *_count(record, one)))
    if rows:
        titles = (*_TITLES, _WORST_TITLE) if any(row[-1] for row in rows) else _TITLES
        yield make_table(titles, rows, words=(_TITLES[0], _WORST_TITLE))


def _count(record: Record, counts: Counts) -> tuple[str, ...]:
    return (
        f"{counts.items:,}",
        "—" if counts.changed is None else f"{counts.changed / max(counts.items, 1):.1%}",
        f"{counts.harmful + counts.tied_harmful:,}",
        f"{counts.beneficial + counts.tied_beneficial:,}",
        f"{counts.tied_harmful + counts.tied_beneficial:,}",
        ", ".join(f"{part} {100 * drop:.1f}" for part, drop in _find_worst(record, counts.metric)),
    )


def _find_worst(record: Record, metric: str) -> list[tuple[str, float]]:
    """The parts that lost most of ``metric``, the worst first; only those that lost any."""
    specs = load_measurement(record.measurement).values
    drops = {name for name, s in specs.items() if s.of == metric and s.neutral == 0 and s.per}
    lost = [
        (qualifier(name), value.value)
        for name, value in record.paired.items()
        if base_name(name) in drops and qualifier(name) and value.value and value.value > 0
    ]
    return sorted(lost, key=lambda pair: -pair[1])[:_WORST]
