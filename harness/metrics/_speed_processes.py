"""Several processes' measurements as one: the process is the sample. Pure; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.record import Measured, Status, Validity, Value
from harness.statistics import geometric_mean_interval

_WORST_FIRST: tuple[Status, ...] = ("invalid", "flagged", "ok")


def merge_speeds(measured: Sequence[Measured]) -> Measured:
    """Geometric means over processes, each with its interval and the number of processes.

    A value that only some processes have is the mean of theirs. ``samples`` holds every round, and
    in ``rounds_per_process`` how many are whose. Flags of all processes are joined; one without
    numbers is told, and the others stand. Raises ValueError for none.
    """
    if not measured:
        raise ValueError("no process to merge")
    having = [one for one in measured if one.validity.status not in ("failed", "skipped")]
    if not having:
        return measured[0]
    names = dict.fromkeys(name for one in having for name in one.values)
    reasons = [
        f"process {number} of {len(measured)} {one.validity.status}: {reason}"
        for number, one in enumerate(measured, 1)
        if one not in having
        for reason in one.validity.reasons
    ]
    reasons += dict.fromkeys(reason for one in having for reason in one.validity.reasons)
    worst = next(s for s in _WORST_FIRST if any(one.validity.status == s for one in having))
    return Measured(
        values={
            name: _merge_values([one.values[name] for one in having if name in one.values])
            for name in names
        },
        protocol=having[0].protocol,
        samples=_merge_samples(having),
        validity=Validity(
            status="flagged" if worst == "ok" and reasons else worst, reasons=tuple(reasons)
        ),
    )


def _merge_values(values: Sequence[Value]) -> Value:
    """Their geometric mean; what all agree on, and what is no positive number, has no interval."""
    known = [value.value for value in values if value.value is not None]
    update: dict[str, Any] = {"n": len(known), "interval": None, "stderr": None}
    if not known:
        update |= {"value": None, "n": None}
    elif len(set(known)) == 1:
        update["value"] = known[0]
    elif min(known) <= 0:
        update["value"] = sum(known) / len(known)
    else:
        estimate = geometric_mean_interval(known)
        update |= {"value": estimate.value, "interval": (estimate.low, estimate.high)}
    return values[0].model_copy(update=update)


def _merge_samples(having: Sequence[Measured]) -> dict[str, Any]:
    """Rounds of all processes, one after the other, by shape."""
    merged: dict[str, Any] = {}
    for shape in dict.fromkeys(shape for one in having for shape in one.samples):
        parts = [one.samples.get(shape, {}) for one in having]
        first = next(part for part in parts if part)
        merged[shape] = {
            key: [entry for part in parts for entry in part.get(key, ())]
            if isinstance(given, list)
            else given
            for key, given in first.items()
        } | {"rounds_per_process": [len(part.get("ttft_s", ())) for part in parts]}
    return merged
