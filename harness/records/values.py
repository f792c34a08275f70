"""Small helpers to make, name and combine a record's values. Pure; no torch."""

import math
from collections.abc import Container, Mapping

from harness.catalog import UnknownNameError, load_measurement
from harness.descriptions import ValueSpec
from harness.records.record import Record, Value
from harness.statistics.estimates import Estimate, Processes


def qualify(name: str, qualifier: object) -> str:
    """``name[qualifier]``, the form of a value reported per batch size or subject."""
    return f"{name}[{qualifier}]"


def base_name(name: str) -> str:
    """``name`` of ``name[qualifier]``."""
    return name.partition("[")[0]


def qualifier(name: str) -> str:
    """``qualifier`` of ``name[qualifier]``, empty where there is none."""
    return name.partition("[")[2].removesuffix("]")


def is_part(name: str, names: Container[str]) -> bool:
    """Whether ``name`` has a qualifier and its total is among ``names``."""
    return base_name(name) != name and base_name(name) in names


def compared_name(name: str, spec: ValueSpec) -> str:
    """What the paired value ``name`` compares, with the same qualifier; else the name itself."""
    return f"{spec.of}{name.removeprefix(base_name(name))}" if spec.of else name


def find_spec(measurement: str, name: str) -> ValueSpec | None:
    """The description of a value, whatever its qualifier; None where either name is unknown."""
    try:
        return load_measurement(measurement).values.get(base_name(name))
    except UnknownNameError:
        return None


def make_values(
    specs: Mapping[str, ValueSpec],
    numbers: Mapping[str, int | float | None],
    stderr: Mapping[str, float | None] | None = None,
    n: Mapping[str, int] | None = None,
    interval: Mapping[str, tuple[float, float] | None] | None = None,
) -> dict[str, Value]:
    """Values with the unit and direction that ``specs`` declare for them."""
    return {
        name: Value(
            value=number,
            unit=specs[base_name(name)].unit,
            better=specs[base_name(name)].better,
            stderr=(stderr or {}).get(name),
            n=(n or {}).get(name),
            interval=(interval or {}).get(name),
        )
        for name, number in numbers.items()
    }


def to_value(spec: ValueSpec, estimate: Estimate) -> Value:
    """The value of an estimate, with everything that is known about its spread."""
    return Value(
        value=estimate.value,
        unit=spec.unit,
        better=spec.better,
        stderr=estimate.stderr,
        n=estimate.n,
        interval=(estimate.low, estimate.high),
        bounds=(estimate.lower, estimate.upper),
        p=estimate.p,
        df=None if math.isinf(estimate.df) else estimate.df,
    )


def processes_of(value: Value) -> Processes | None:
    """The processes that a speed is the mean of; a value without a spread is of one process."""
    if not value.value or value.value < 0:
        return None
    if value.stderr is None or value.n is None:
        return Processes(value.value, None, 1)
    return Processes(value.value, value.stderr / value.value * math.sqrt(value.n), value.n)


def divide(above: Record, below: Record, name: str) -> float | None:
    """The ratio of one value of two records; None where either is missing or below is 0."""
    top, bottom = above.values.get(name), below.values.get(name)
    if top is None or bottom is None or top.value is None or not bottom.value:
        return None
    return top.value / bottom.value
