"""Why a speed may not be trusted although it was measured, and what may explain a change. Pure."""

import re

from harness.records.identity import Changes
from harness.records.record import Record, Verdict

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
