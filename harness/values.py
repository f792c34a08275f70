"""Small helpers to make and combine a record's values. Pure; no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from harness.options import ValueSpec
from harness.record import Record, Value

_LARGEST_LOG = math.log(sys.float_info.max)


def exp_capped(x: float) -> float:
    """exp, as large as a float can be where it would overflow: a number that limits can judge."""
    return math.exp(min(x, _LARGEST_LOG))


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


def divide(above: Record, below: Record, name: str) -> float | None:
    """The ratio of one value of two records; None where either is missing or below is 0."""
    top, bottom = above.values.get(name), below.values.get(name)
    if top is None or bottom is None or top.value is None or not bottom.value:
        return None
    return top.value / bottom.value
