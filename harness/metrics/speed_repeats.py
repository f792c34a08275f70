"""Several processes' measurements as one: the process is the sample. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.records.record import Measured, Value, join_validity
from harness.statistics.estimates import Processes, geometric_mean_interval


def merge_speeds(measured: Sequence[Measured]) -> Measured:
    """Geometric means over processes, each with its interval and the number of processes.

    A value that only some processes have is the mean of theirs. ``samples`` holds every round, and
    in ``rounds_per_process`` how many are whose. Raises ValueError for none.
    """
    if not measured:
        raise ValueError("no process to merge")
    names = dict.fromkeys(name for one in measured for name in one.values)
    return Measured(
        values={
            name: _merge_values([one.values[name] for one in measured if name in one.values])
            for name in names
        },
        protocol=measured[0].protocol,
        samples=_merge_samples(measured),
        validity=join_validity(*(one.validity for one in measured)),
    )


def _merge_values(values: Sequence[Value]) -> Value:
    """Their geometric mean; what all agree on, and what is no positive number, has no interval."""
    known = [value.value for value in values if value.value is not None]
    update: dict[str, Any] = {"n": len(known)}
    if not known:
        update |= {"value": None, "n": None}
    elif len(set(known)) == 1:
        update["value"] = known[0]
    elif min(known) <= 0:
        update["value"] = sum(known) / len(known)
    else:
        estimate = geometric_mean_interval(known)
        update |= {
            "value": estimate.value,
            "stderr": estimate.stderr,
            "interval": (estimate.low, estimate.high),
            "bounds": (estimate.lower, estimate.upper),
        }
    return values[0].model_copy(update=update)


def processes_of(value: Value) -> Processes | None:
    """What `merge_speeds` made a value of; a value without a spread is of one process."""
    if not value.value or value.value < 0:
        return None
    if value.stderr is None or value.n is None:
        return Processes(value.value, None, 1)
    return Processes(value.value, value.stderr / value.value * math.sqrt(value.n), value.n)


def _merge_samples(measured: Sequence[Measured]) -> dict[str, Any]:
    """Rounds of all processes, one after the other, by shape."""
    merged: dict[str, Any] = {}
    for shape in dict.fromkeys(shape for one in measured for shape in one.samples):
        parts = [one.samples.get(shape, {}) for one in measured]
        first = next(part for part in parts if part)
        merged[shape] = {
            key: [entry for part in parts for entry in part.get(key, ())]
            if isinstance(given, list)
            else given
            for key, given in first.items()
        } | {"rounds_per_process": [len(part.get("ttft_s", ())) for part in parts]}
    return merged
