"""Verdicts on processes that were judged again and again while more were measured. Pure.

How much a bound may err at the last look is in `harness.statistics.repeated_looks`.
"""

import math

from harness.descriptions import ValueSpec
from harness.records.record import Record, Value
from harness.records.values import find_spec, processes_of, to_value
from harness.statistics.estimates import geometric_mean_interval, t_quantile
from harness.statistics.repeated_looks import level_at_last_look

ERROR = 0.05  # of a one-sided bound
# Processes of a cell, unless the suite asks for more than half as many itself.
_MOST = 16
_MANY = 1000  # even, for `suppose_many`


def most_processes(repeats: int) -> int:
    """How many processes of a cell there will be at most, where the suite asks for ``repeats``."""
    return max(_MOST, 2 * repeats)


def share_error(record: Record, spec: ValueSpec, error: float = ERROR) -> float:
    """What a bound may err at the last look, of ``error`` over all; all of it without looks."""
    if record.looks is None or spec.sampled != "processes":
        return error
    return level_at_last_look(error, record.looks.fractions)


def allow_for_looks(record: Record, spec: ValueSpec, value: Value, df: float) -> Value:
    """The value with bounds that hold however often it was looked at: t(1 - error) for t(95 %).

    On logarithms, which are what is taken to be normal, with ``df`` degrees of freedom.
    """
    error = share_error(record, spec)
    if error == ERROR or value.bounds is None or not value.value:
        return value
    wider = t_quantile(1 - error, df) / t_quantile(1 - ERROR, df)
    low, high = (value.value * (end / value.value) ** wider for end in value.bounds)
    return value.model_copy(update={"bounds": (low, high)})


def describe_looks(record: Record, spec: ValueSpec) -> str:
    """A clause for a verdict's sentence; "" where there was a single look."""
    if record.looks is None or spec.sampled != "processes":
        return ""
    at, most = record.looks.at, record.looks.most
    looks = f"{len(at)} look{'s' * (len(at) > 1)}"
    return f"; process {at[-1]} of at most {most}, bounds that allow for {looks}"


def suppose_many(record: Record, shift: float = 0.0) -> Record:
    """The record as if very many processes had given the same spreads and nearly the same means.

    Means differ by ``shift`` standard errors, as they might: what is open even then, whichever way
    they differ, more processes do not decide.
    """
    values = dict(record.values)
    for name, value in record.values.items():
        spec, found = find_spec(record.measurement, name), processes_of(value)
        if spec is not None and spec.sampled == "processes" and found is not None:
            spread = found.spread or 0.0
            mean = found.mean * math.exp(shift * spread / math.sqrt(found.n))
            reach = math.exp(spread * math.sqrt((_MANY - 1) / _MANY))
            halves = [mean * reach, mean / reach] * (_MANY // 2)
            values[name] = to_value(spec, geometric_mean_interval(halves))
    return record.model_copy(update={"values": values})
