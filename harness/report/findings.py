"""What does not pass in a run: records without usable numbers, and verdicts other than PASS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.records.record import Record
from harness.records.run_file import Run

FAILING = frozenset({"FAIL", "failed", "invalid"})


@dataclass(frozen=True)
class Finding:
    """One thing that does not pass.

    ``outcome`` is a record's status (failed, invalid, skipped) or a verdict (FAIL, INCONCLUSIVE),
    ``about`` names the cell and its measurements or value. ``line`` is that of the suite's limit,
    None where the finding concerns no limit.
    """

    outcome: str
    about: str
    text: str
    line: int | None = None

    @property
    def sentence(self) -> str:
        """A verdict's own sentence; otherwise what has no number, and why."""
        if self.outcome in ("FAIL", "INCONCLUSIVE"):
            return self.text
        return f"{self.about} {self.outcome}: {self.text}"


def list_findings(run: Run) -> list[Finding]:
    """Every finding in the order of the records; what one reason did to a cell is one finding."""
    records = [record for record in run.records if not record.noise]
    verdicts = [
        Finding(
            v.verdict,
            f"{r.cell.id} {v.metric}",
            v.text,
            int(v.position.rsplit(":", 2)[1]) if v.position else None,
        )
        for r in records
        for v in r.verdicts
        if v.verdict != "PASS"
    ]
    return [*_list_without_numbers(records), *verdicts]


def _list_without_numbers(records: Iterable[Record]) -> list[Finding]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        if not record.usable:
            why = "; ".join(record.validity.reasons) or "no reason was given"
            key = (record.cell.id, record.validity.status, why)
            groups.setdefault(key, []).append(record.measurement)
    return [
        Finding(status, f"{cell} {', '.join(measurements)}", why)
        for (cell, status, why), measurements in groups.items()
    ]
