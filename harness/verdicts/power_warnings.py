"""Limits that a run cannot decide, said before the long work: what it sees, and what it would take.

Pure. Knows of accuracies, whose smallest detectable drop follows from the number of items, and of
speeds, which a single process leaves open; what chunks of a text scatter is known only afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.statistics.power import items_needed, smallest_detectable_drop
from harness.suite.models import Limit, MeasurementSpec

# Of the answers to a benchmark 4-bit formats turn so many, 8-bit ones fewer.
TYPICAL_FLIP_RATE = 0.08


def announce_items(
    limits: Iterable[Limit], model: str, precision: str, measurement: str, items: int
) -> Iterator[str]:
    """A sentence per limit on an accuracy's drop that is finer than ``items`` can see."""
    for limit, spec in _find(limits, model, precision, measurement):
        drop = _drop_of(limit, spec)
        if drop is None:
            continue
        seen = smallest_detectable_drop(items, TYPICAL_FLIP_RATE)
        if seen > drop:
            enough = math.ceil(items_needed(drop, TYPICAL_FLIP_RATE))
            yield (
                f"{limit.position}: {limit.metric} {_bound(limit)} is finer than {items:,} items "
                f"see: with {TYPICAL_FLIP_RATE:.0%} of the answers flipping, a drop of "
                f"{seen:.3f} at the least; {enough:,} items would do"
            )


def announce_processes(
    limits: Iterable[Limit], model: str, precision: str, measurement: MeasurementSpec
) -> Iterator[str]:
    """A sentence per limit on a speed that is measured in a single process."""
    if measurement.options.REPEATS is None or measurement.options.repeats != 1:
        return
    for limit, spec in _find(limits, model, precision, measurement.name):
        if spec.sampled == "processes":
            yield (
                f"{limit.position}: {limit.metric} {_bound(limit)} cannot be decided by one "
                f"process: `{measurement.name}: {{{measurement.options.REPEATS}: 3}}`"
            )


def _find(
    limits: Iterable[Limit], model: str, precision: str, measurement: str
) -> Iterator[tuple[Limit, ValueSpec]]:
    for limit in limits:
        applies = precision in limit.precision and model in limit.model
        if applies and limit.family == measurement:
            yield limit, load_measurement(measurement).values[limit.value]


def _drop_of(limit: Limit, spec: ValueSpec) -> float | None:
    """The drop in accuracy that a limit allows; None where it is about something else."""
    if spec.sampled != "items" or not spec.paired or spec.margin is None:
        return None
    if limit.qualifier is not None or limit.max is None or limit.max <= 0 or spec.neutral != 0:
        return None
    return limit.max if spec.margin.absolute and not spec.margin.relative else None


def _bound(limit: Limit) -> str:
    given = (("min", limit.min), ("max", limit.max))
    return ", ".join(f"{side} {bound:g}" for side, bound in given if bound is not None)
