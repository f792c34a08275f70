"""What speaks against a verdict: flags of a speed, and other conditions; what may explain it. Pure.

A flagged speed may be too low or, where it is the reference's, make a ratio too high.
"""

import re

from harness.catalog import load_measurement
from harness.records.identity import Changes
from harness.records.record import Record, Verdict
from harness.records.values import base_name, find_spec

_NUMBER = re.compile(r"(\d+(?:,\d{3})*(?:\.\d+)?)( ?%)?")
_NEAR = 0.1  # flags of one kind differ by no more: a tenth of the larger, or ten points of 100 %
_BUSY = "other processes"  # how harness.run.make_record begins its flag of a busy machine


def find_doubts(record: Record, other: Record) -> list[str]:
    """The flags of ``record`` that spoil its comparison with ``other``.

    A power cap or a clock that both have, about as much, does not; a machine that was busy always
    does.
    """
    return [
        reason
        for reason in record.validity.reasons
        if reason.startswith(_BUSY)
        or not any(_are_alike(reason, o) for o in other.validity.reasons)
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


def _are_alike(a: str, b: str) -> bool:
    """Whether two flags say the same, of about the same size."""
    sizes = ([_read(*found) for found in _NUMBER.findall(text)] for text in (a, b))
    return _NUMBER.sub(r"#\2", a) == _NUMBER.sub(r"#\2", b) and all(
        abs(ours - theirs) <= _NEAR * max(whole, ours, theirs)
        for (ours, whole), (theirs, _) in zip(*sizes, strict=True)
    )


def _read(number: str, percent: str) -> tuple[float, float]:
    """A number, and for a percentage 100, of which its nearness is a share."""
    return float(number.replace(",", "")), 100.0 if percent else 0.0
