"""Several processes' measurements as one: the process is the sample. Pure; no torch."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from harness.records.record import Measured, Value, join_validity
from harness.statistics.estimates import geometric_mean_interval


def merge_speeds(measured: Sequence[Measured]) -> Measured:
    """Geometric means over processes, each with its interval and the number of processes.

    A value that only some processes have is the mean of theirs, and the protocol's ``method`` holds
    what any of them says. ``samples`` holds every round, and
    ``rounds_per_process`` how many each process had.
    """
    values: dict[str, list[Value]] = {}
    for one in measured:
        for name, value in one.values.items():
            values.setdefault(name, []).append(value)
    workloads = dict.fromkeys(name for one in measured for name in one.samples)
    method: dict[str, Any] = {}
    for one in measured:
        method |= one.protocol.get("method", {})
    return Measured(
        values={name: _merge_values(each) for name, each in values.items()},
        protocol={**measured[0].protocol, "method": method},
        samples={
            w: _merge_samples([one.samples.get(w, {}) for one in measured]) for w in workloads
        },
        validity=join_validity(*(one.validity for one in measured)),
    )


def _merge_values(values: Sequence[Value]) -> Value:
    """Their geometric mean; without an interval where all agree or one is not positive."""
    known = [value.value for value in values if value.value is not None]
    update: dict[str, Any] = {"n": len(known) or None}
    if len(set(known)) > 1 and min(known) > 0:
        estimate = geometric_mean_interval(known)
        update |= {
            "value": estimate.value,
            "stderr": estimate.stderr,
            "interval": (estimate.low, estimate.high),
            "bounds": (estimate.lower, estimate.upper),
        }
    elif known:
        update["value"] = known[0] if len(set(known)) == 1 else fmean(known)
    return values[0].model_copy(update=update)


def _merge_samples(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds of all processes of one workload, one process after the other."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, given in part.items():
            merged[key] = merged.get(key, []) + given if isinstance(given, list) else given
    return merged | {"rounds_per_process": [len(part.get("ttft_s", ())) for part in parts]}
