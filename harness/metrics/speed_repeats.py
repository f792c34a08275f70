"""Several processes' measurements as one: the process is the sample. Pure; no torch."""

from collections.abc import Sequence
from typing import Any

from harness.records.record import Measured, Value, join_validity
from harness.statistics.estimates import geometric_mean_interval


def merge_speeds(measured: Sequence[Measured]) -> Measured:
    """Geometric means over processes, each with its interval and the number of processes.

    A value that only some processes have is the mean of theirs. ``samples`` holds every round, and
    ``rounds_per_process`` how many each process had. Raises ValueError without processes.
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
    """Their geometric mean; without an interval where all agree or one is not positive."""
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


def _merge_samples(measured: Sequence[Measured]) -> dict[str, Any]:
    """Rounds of all processes, one after the other, by workload."""
    merged: dict[str, Any] = {}
    for workload in dict.fromkeys(name for one in measured for name in one.samples):
        parts = [one.samples.get(workload, {}) for one in measured]
        first = next(part for part in parts if part)
        merged[workload] = {
            key: [entry for part in parts for entry in part.get(key, ())]
            if isinstance(given, list)
            else given
            for key, given in first.items()
        } | {"rounds_per_process": [len(part.get("ttft_s", ())) for part in parts]}
    return merged
