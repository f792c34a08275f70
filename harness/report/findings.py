"""What does not pass in a run: records without usable numbers, and verdicts other than PASS."""

from dataclasses import dataclass

from harness.records.run_file import Run

FAILING = frozenset({"FAIL", "failed", "invalid"})


@dataclass(frozen=True)
class Finding:
    """One thing that does not pass.

    ``outcome`` is a record's status (failed, invalid, skipped) or a verdict (FAIL, INCONCLUSIVE),
    ``about`` names the cell and its measurements or value. ``line`` is that of the suite's limit,
    None where the finding concerns no limit. ``outcomes`` are all that may make it fail.
    """

    outcome: str
    about: str
    text: str
    line: int | None = None
    outcomes: frozenset[str] = frozenset()

    @property
    def sentence(self) -> str:
        """A verdict's own sentence; otherwise what has no number, and why."""
        if self.outcome in ("FAIL", "INCONCLUSIVE"):
            return self.text
        return f"{self.about} {self.outcome}: {self.text}"


def list_findings(run: Run) -> list[Finding]:
    """What broke, by cell and reason, then the verdicts in the order of the records."""
    records = [record for record in run.records if not record.noise]
    broken: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        if not record.usable:
            why = "; ".join(record.validity.reasons) or "no reason was given"
            key = (record.cell.id, record.validity.status, why)
            broken.setdefault(key, []).append(record.measurement)
    without_numbers = [
        Finding(status, f"{cell} {', '.join(measurements)}", why, outcomes=frozenset({status}))
        for (cell, status, why), measurements in broken.items()
    ]
    verdicts = [
        Finding(
            v.verdict,
            f"{r.cell.id} {v.metric}",
            v.text,
            int(v.position.rsplit(":", 2)[1]) if v.position else None,
            v.outcomes,
        )
        for r in records
        for v in r.verdicts
        if v.verdict != "PASS"
    ]
    return [*without_numbers, *verdicts]
