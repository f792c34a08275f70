"""Small helpers to make and combine a record's values. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.descriptions import ValueSpec
from harness.records.record import Record, Value
from harness.statistics.estimates import Estimate, Processes, t_quantile
from harness.statistics.power import (
    smallest_detectable,
    smallest_detectable_share,
    value_degrees_of_freedom,
)


def qualify(name: str, qualifier: object) -> str:
    """``name[qualifier]``, the form of a value reported per batch size or subject."""
    return f"{name}[{qualifier}]"


def base_name(name: str) -> str:
    """``name`` of ``name[qualifier]``."""
    return name.partition("[")[0]


def qualifier(name: str) -> str:
    """``qualifier`` of ``name[qualifier]``, empty where there is none."""
    return name.partition("[")[2].removesuffix("]")


def make_values(
    specs: Mapping[str, ValueSpec],
    numbers: Mapping[str, int | float | None],
    stderr: Mapping[str, float | None] | None = None,
    n: Mapping[str, int] | None = None,
    interval: Mapping[str, tuple[float, float] | None] | None = None,
) -> dict[str, Value]:
    """Values with the unit and direction their module declares for them."""
    made = {}
    for name, number in numbers.items():
        spec = specs[base_name(name)]
        made[name] = Value(
            value=number,
            unit=spec.unit,
            better=spec.better,
            stderr=(stderr or {}).get(name),
            n=(n or {}).get(name),
            interval=(interval or {}).get(name),
        )
    return made


def to_value(spec: ValueSpec, estimate: Estimate) -> Value:
    """The value of an estimate, with everything that is known of its spread."""
    return Value(
        value=estimate.value,
        unit=spec.unit,
        better=spec.better,
        stderr=estimate.stderr,
        n=estimate.n,
        interval=(estimate.low, estimate.high),
        bounds=(estimate.lower, estimate.upper),
        p=estimate.p,
    )


def processes_of(value: Value) -> Processes | None:
    """The processes whose geometric mean the value is; without a spread it is one process's.

    None for a value that is unknown or not positive.
    """
    if not value.value or value.value < 0:
        return None
    if value.stderr is None or value.n is None:
        return Processes(value.value, None, 1)
    return Processes(value.value, value.stderr / value.value * math.sqrt(value.n), value.n)


def bounds_of(value: Value, spec: ValueSpec) -> tuple[float, float] | None:
    """One-sided 95 % bounds: the number itself where it is exact, None where nothing is known.

    Those it was given; else ± t(0.95)·SE with one degree of freedom less than samples.
    """
    if value.value is None or value.bounds is not None:
        return value.bounds
    if spec.sampled is None:
        return (value.value, value.value)
    if spec.sampled == "processes" or value.stderr is None or value.n is None or value.n < 2:
        return None
    reach = t_quantile(0.95, value.n - 1) * value.stderr
    return (value.value - reach, value.value + reach)


FEWEST_CHUNKS = 20


def smallest_effect(
    value: Value, spec: ValueSpec, stderr: float, margin: float, confidence: float = 0.95
) -> float | None:
    """The smallest harm that would have been called FAIL; of items that flip, by their number.

    None of fewer than 20 chunks: what they would see cannot be told from their own spread
    (benchmarks/calibration.py: of 10 windows 65 % was seen of what should have been 80).
    """
    of_items = spec.sampled == "items" and spec.of is not None and spec.unit == ""
    if of_items and spec.neutral == 0 and value.n and value.value is not None:
        flips = (value.stderr or 0.0) ** 2 * value.n + value.value**2
        return smallest_detectable_share(value.n, flips, margin, confidence)
    is_ratio = spec.paired and spec.neutral == 1
    df = value_degrees_of_freedom(value.value or 0.0, value.stderr, value.interval, is_ratio)
    if spec.sampled == "items" and (value.n or 0) < FEWEST_CHUNKS:
        return None
    if math.isinf(df) and spec.sampled == "items" and value.n:
        df = value.n - 1
    return smallest_detectable(stderr, margin, df, confidence)


def divide(above: Record, below: Record, name: str) -> float | None:
    """The ratio of one value of two records; None where either is missing or below is 0."""
    top, bottom = above.values.get(name), below.values.get(name)
    if top is None or bottom is None or top.value is None or not bottom.value:
        return None
    return top.value / bottom.value
