"""Limits on processes that were judged again and again while more were measured. Pure.

A value is judged at the looks of its own cell, and keeps what decides it. How much a bound may err
at the last look is in `harness.statistics.repeated_looks`.
"""

import math

from harness.descriptions import ValueSpec
from harness.records.record import Record, Value, Verdict
from harness.records.values import find_spec, processes_of, to_value
from harness.statistics.estimates import geometric_mean_interval, t_quantile
from harness.statistics.repeated_looks import level_at_last_look

ERROR = 0.05  # of a one-sided bound
FEWEST = 3  # processes of a cell at its first look: with fewer a bound says next to nothing
# Processes of a cell, unless the suite asks for more than half as many itself.
_MOST = 16
_MANY = 1000  # even, for `suppose_many`


def most_processes(repeats: int) -> int:
    """How many processes of a cell there will be at most, where the suite asks for ``repeats``."""
    return max(_MOST, 2 * repeats)


def share_error(record: Record, spec: ValueSpec, error: float = ERROR) -> float:
    """What a bound may err at the last look, of ``error`` over all; all of it without looks."""
    if record.looks is None or not record.looks.at or spec.sampled != "processes":
        return error
    return level_at_last_look(error, record.looks.fractions)


def error_over_looks(record: Record, spec: ValueSpec, p: float) -> float:
    """The error over all looks that leaves ``p`` to the last one: `share_error` turned around."""
    largest = 0.5
    left = share_error(record, spec, largest)
    if left == largest or p == 0:  # a single look, or nothing to divide
        return p
    if p >= left:
        return max(p, largest)
    from scipy.optimize import brentq

    def miss(exponent: float) -> float:
        return math.log(share_error(record, spec, math.exp(exponent)) / p)

    return math.exp(brentq(miss, math.log(p), math.log(largest), xtol=0.01))


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
    if record.looks is None or not record.looks.at or spec.sampled != "processes":
        return ""
    at, most = record.looks.at, record.looks.most
    looks = f"{len(at)} look{'s' * (len(at) > 1)}"
    return f"; process {at[-1]} of at most {most}, bounds that allow for {looks}"


def suppose_many(record: Record, shift: float = 0.0) -> Record:
    """The record as if very many processes had given the same spreads and nearly the same means.

    Means differ by ``shift`` standard errors, as they might: what is open even then, whichever way
    they differ, more processes do not decide.
    """
    looks = record.looks and record.looks.reopened()
    values = dict(record.values)
    for name, value in record.values.items():
        spec, found = find_spec(record.measurement, name), processes_of(value)
        if spec is not None and spec.sampled == "processes" and found is not None:
            spread = found.spread or 0.0
            mean = found.mean * math.exp(shift * spread / math.sqrt(found.n))
            reach = math.exp(spread * math.sqrt((_MANY - 1) / _MANY))
            halves = [mean * reach, mean / reach] * (_MANY // 2)
            values[name] = to_value(spec, geometric_mean_interval(halves))
    return record.model_copy(update={"values": values, "looks": looks})


def list_verdicts(record: Record) -> list[Verdict]:
    """Its verdicts that more processes may decide: on limits of what is a sample of them."""
    return [
        verdict
        for verdict in record.verdicts
        for spec in [find_spec(record.measurement, verdict.metric.partition(".")[2])]
        if spec and spec.sampled == "processes" and verdict.against == "limit"
    ]


def keep_verdicts(record: Record) -> Record:
    """The record with the verdicts that its looks have reached, in place of those as it is now."""
    kept = {_name(verdict): verdict for verdict in (record.looks.verdicts if record.looks else ())}
    verdicts = tuple(kept.get(_name(verdict), verdict) for verdict in record.verdicts)
    return record.model_copy(update={"verdicts": verdicts})


def as_first_seen(record: Record) -> Record:
    """The record by the processes that the suite asks for, without those that a limit added."""
    if record.looks is None:
        return record
    values = {**record.values, **record.looks.first}
    return record.model_copy(update={"values": values, "looks": None})


def list_timed(record: Record) -> dict[str, Value]:
    """Its values that are samples of processes."""
    specs = {name: find_spec(record.measurement, name) for name in record.values}
    return {
        name: value
        for name, value in record.values.items()
        if (spec := specs[name]) is not None and spec.sampled == "processes"
    }


def _name(verdict: Verdict) -> tuple[str, ...]:
    return verdict.against, verdict.metric, verdict.bound, verdict.position
