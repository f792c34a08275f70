"""Limits and margins that a run cannot decide, said before the long work, with what would. Pure.

How much the chunks of a text scatter is known only afterwards.
"""

from collections.abc import Iterable, Iterator

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.statistics.power import items_to_pass, smallest_passed
from harness.suite.models import Limit, MeasurementSpec
from harness.verdicts.limits import show_bound

# 4-bit formats change about this share of the answers to a benchmark, 8-bit ones fewer.
TYPICAL_FLIP_RATE = 0.08
# From one commit to the next far fewer change.
_FLIPS_BETWEEN_RUNS = 0.01


def announce_items(
    limits: Iterable[Limit], model: str, precision: str, measurement: str, items: int
) -> Iterator[str]:
    """A sentence per limit on a drop in a share that too few ``items`` can pass."""
    for limit, spec in _find(limits, model, precision, measurement):
        enough = count_needed(limit, spec)
        if enough is not None and items < enough:
            passed = smallest_passed(items, TYPICAL_FLIP_RATE)
            yield (
                f"{limit.position}: {limit.metric} {show_bound(limit, 'g')} is finer than "
                f"{items:,} items can show: where {TYPICAL_FLIP_RATE:.0%} of the answers flip, as "
                f"many for better as for worse, they pass {passed:.3f} or more in 4 of 5 runs; "
                f"{enough:,} items pass this limit"
            )


def count_needed(limit: Limit, spec: ValueSpec) -> int | None:
    """The items that pass a limit on a drop where nothing is lost; None for any other limit."""
    if not is_drop(limit.family, spec) or limit.qualifier is not None:
        return None
    if limit.max is None or limit.max <= 0:
        return None
    return items_to_pass(limit.max, TYPICAL_FLIP_RATE)


def announce_margins(measurement: str, items: int) -> Iterator[str]:
    """A sentence per share whose margin too few ``items`` can pass from one run to the next."""
    for name, spec in load_measurement(measurement).values.items():
        if spec.row is None or spec.margin is None:
            continue
        enough = items_to_pass(spec.margin.absolute, _FLIPS_BETWEEN_RUNS)
        if items < enough:
            yield (
                f"{measurement}.{name}: {items:,} items cannot show that nothing changed by more "
                f"than its margin of {spec.margin.absolute:g}: where {_FLIPS_BETWEEN_RUNS:.0%} of "
                f"the answers flip, {enough:,} items pass in 4 of 5 runs"
            )


def announce_processes(
    limits: Iterable[Limit], model: str, precision: str, measurement: MeasurementSpec
) -> Iterator[str]:
    """A sentence per limit on a speed that is measured in a single process."""
    options = measurement.options
    if options.REPEATS is None or options.repeats != 1:
        return
    for limit, spec in _find(limits, model, precision, measurement.name):
        if spec.sampled == "processes":
            yield (
                f"{limit.position}: {limit.metric} {show_bound(limit, 'g')} cannot be decided by "
                f"one process: `{measurement.name}: {{{options.REPEATS}: 3}}`"
            )


def _find(
    limits: Iterable[Limit], model: str, precision: str, measurement: str
) -> Iterator[tuple[Limit, ValueSpec]]:
    for limit in limits:
        applies = precision in limit.precision and model in limit.model
        if applies and limit.family == measurement:
            yield limit, load_measurement(measurement).values[limit.value]


def is_drop(measurement: str, spec: ValueSpec) -> bool:
    """Whether a value is the paired difference of a value that is the mean of a row."""
    if not spec.paired or spec.neutral != 0 or spec.margin is None:
        return False
    compared = load_measurement(measurement).values.get(spec.of or "")
    return compared is not None and compared.row is not None
