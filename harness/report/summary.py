"""The summary of a run, made from its run file: what the terminal and a job's page show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from harness.records.record import Record
from harness.records.run_file import Run
from harness.report.changed_answers import make_changed_answers
from harness.report.document import Document, Lines, Paragraph, list_lines
from harness.report.findings import FAILING, list_findings
from harness.report.matrix import make_details, make_matrix
from harness.report.notes import list_notes


def summarise_run(run: Run, run_file: str, details: bool = False) -> Document:
    """Counts, the matrix, changed answers, what failed or is open, notes, the run file's path.

    ``details`` adds the tables of ``-v``.
    """
    findings = list_findings(run)
    failed = [finding.sentence for finding in findings if finding.outcome in FAILING]
    undecided = [finding.sentence for finding in findings if finding.outcome == "INCONCLUSIVE"]
    return Document(
        f"precision-harness: {run.suite.get('name')}",
        (
            Lines((_count(run.records), _describe(run))),
            make_matrix(run),
            *make_changed_answers(run),
            *(make_details(run) if details else ()),
            *list_lines("Failed", list(dict.fromkeys(failed))),
            *list_lines("Undecided", list(dict.fromkeys(undecided))),
            *list_lines("Notes", [*run.run.remarks, *list_notes(run.records)]),
            Paragraph(f"run file: {run_file}"),
        ),
    )


def _count(records: Iterable[Record]) -> str:
    measured = [record for record in records if not record.noise]
    outcomes = Counter(verdict.verdict for record in measured for verdict in record.verdicts)
    statuses = Counter(record.validity.status for record in measured)
    counts = [f"{outcomes[o]} {o}" for o in ("FAIL", "INCONCLUSIVE", "PASS") if outcomes[o]]
    lost = [f"{statuses[s]} {s}" for s in ("failed", "invalid", "skipped") if statuses[s]]
    noun = "measurement" if len(measured) == 1 else "measurements"
    return ", ".join(
        [f"{', '.join(counts) or 'no limit was judged'}; {len(measured)} {noun}", *lost]
    )


def _describe(run: Run) -> str:
    """Device, reference and commit."""
    facts = [run.run.device_name or run.run.device]
    if run.suite.get("reference"):
        facts.append(f"reference {run.suite['reference']}")
    if run.run.git_sha is None:
        facts.append("no git")
    else:
        changes = ", with changes" if run.run.git_dirty else ""
        facts.append(f"commit {run.run.git_sha[:10]}{changes}")
    return "; ".join(facts)
