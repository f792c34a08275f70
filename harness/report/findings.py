"""What does not pass in a run: records without usable numbers, and verdicts other than PASS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.records.record import Record, Verdict
from harness.records.values import base_name
from harness.suite.models import Limit, Suite


@dataclass(frozen=True)
class Finding:
    """One thing that does not pass.

    ``outcome`` is a record's status (failed, invalid, skipped) or a verdict (FAIL, INCONCLUSIVE),
    ``about`` names the cell and what of it, ``line`` is that of the suite's limit, None where the
    finding is of no limit.
    """

    outcome: str
    about: str
    text: str
    line: int | None = None


def list_findings(suite: Suite, records: Iterable[Record]) -> list[Finding]:
    """Every finding in the order of the records; what one reason did to a cell is one finding."""
    records = [record for record in records if not record.noise]
    return [*_list_without_numbers(records), *_list_verdicts(suite, records)]


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


def _list_verdicts(suite: Suite, records: Iterable[Record]) -> list[Finding]:
    return [
        Finding(
            verdict.verdict,
            f"{record.cell.id} {verdict.metric}",
            verdict.text,
            _find_line(suite, record, verdict),
        )
        for record in records
        for verdict in record.verdicts
        if verdict.verdict != "PASS"
    ]


def _find_line(suite: Suite, record: Record, verdict: Verdict) -> int | None:
    """The line of the limit that was judged; a threshold and an earlier run have none."""
    if verdict.against != "limit":
        return None
    known = [limit for limit in suite.limits if _covers(limit, record, verdict.metric)]
    if not known:
        return None
    # One value may have a limit `max` and another `min`: the sentence names its own.
    judged = next((x for x in known if x.position and f"({x.position})" in verdict.text), known[0])
    line = judged.position.rsplit(":", 2)[1:2]
    return int(line[0]) if line else None


def _covers(limit: Limit, record: Record, metric: str) -> bool:
    return (
        record.cell.precision in limit.precision
        and record.cell.model in limit.model
        and limit.metric in (metric, base_name(metric))
    )
