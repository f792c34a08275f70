"""What speaks against a verdict: flags of a speed, and other conditions; what may explain it. Pure.

A flagged speed may be too low or, where it is the reference's, make a ratio too high.
"""

import re

from harness.catalog import load_measurement
from harness.records.identity import Changes
from harness.records.record import Record, Verdict
from harness.records.values import base_name, find_spec

_NUMBER = re.compile(r"\d[\d.,]*")
_BUSY = "other processes"  # how harness.run.make_record begins its flag of a busy machine


def find_doubts(record: Record, other: Record) -> list[str]:
    """The flags of ``record`` that spoil its comparison with ``other``.

    A power cap or a clock that both have does not; a machine that was busy always does.
    """
    common = {_kind(reason) for reason in other.validity.reasons}
    return [
        reason
        for reason in record.validity.reasons
        if _kind(reason) not in common or reason.startswith(_BUSY)
    ]


def doubt_ratios(record: Record, reference: Record) -> Record:
    """``record`` with the reference's flags beside each paired value that is made of timings."""
    metric = load_measurement(record.measurement)
    doubt = "; ".join(find_doubts(reference, record)) if metric.timed else ""
    if not doubt:
        return record
    doubt = f"the reference {reference.cell.precision} is flagged: {doubt}"

    def is_timed(name: str) -> bool:
        of = metric.values[base_name(name)].of
        return of is None or metric.values[of].sampled == "processes"

    paired = {
        name: value.model_copy(update={"doubt": doubt}) if is_timed(name) else value
        for name, value in record.paired.items()
    }
    return record.model_copy(update={"paired": paired})


def leave_open(verdict: Verdict, record: Record, reference: Record | None) -> Verdict:
    """The verdict on a limit, INCONCLUSIVE where a flag of a timing speaks against it.

    A flag of the record itself speaks against a FAIL, one of its reference against a PASS too.
    """
    name = verdict.metric.partition(".")[2]
    found, spec = record.find(name), find_spec(record.measurement, name)
    if found is None or spec is None or verdict.verdict == "INCONCLUSIVE":
        return verdict
    doubts = [found.doubt] if found.doubt else []
    if verdict.verdict == "FAIL" and spec.sampled == "processes":
        is_pair = name in record.paired and reference is not None
        own = find_doubts(record, reference) if is_pair and reference else record.validity.reasons
        doubts += [f"flagged: {'; '.join(own)}"] if own else []
    if not doubts:
        return verdict
    end = f" ({verdict.position})." if verdict.position else "."
    text = f"{verdict.text.removesuffix(end)}; {'; '.join(doubts)}{end}"
    return verdict.model_copy(update={"verdict": "INCONCLUSIVE", "text": text})


def name_changes(verdict: Verdict, changes: Changes, since: str) -> Verdict:
    """The verdict with its suspects and flags; a FAIL under other conditions is left open."""
    outcome, text = verdict.verdict, verdict.text.removesuffix(".")
    if changes.conditions and outcome == "FAIL":  # they are listed for speeds only
        outcome = "INCONCLUSIVE"
    text += "".join(f"; {flag}" for flag in changes.flags) + changes.name_suspects(since)
    return verdict.model_copy(update={"verdict": outcome, "text": f"{text}."})


def _kind(reason: str) -> str:
    """Flags that differ in numbers only are of one kind."""
    return _NUMBER.sub("#", reason)
