"""A suite and a selection -> the cells to run, in order, each with its measurements.

Pure: decides nothing about devices, skips or where a reference's record comes from.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from harness.catalog import check_name, load_measurement
from harness.suite.models import MeasurementSpec, ModelSpec, PrecisionSpec, Suite


def cell_id(model: ModelSpec, precision: PrecisionSpec) -> str:
    """``tiny-world[nf4]``, as in node ids."""
    return f"{model.name}[{precision.name}]"


@dataclass(frozen=True)
class Cell:
    """One model at one precision, and what is measured on it, in order."""

    model: ModelSpec
    precision: PrecisionSpec
    measurements: tuple[MeasurementSpec, ...]

    @property
    def id(self) -> str:
        """``tiny-world[nf4]``, as in node ids."""
        return cell_id(self.model, self.precision)


@dataclass(frozen=True)
class Selection:
    """Names picked on the command line; an empty tuple picks all."""

    precisions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()


def check_selection(suites: Iterable[Suite], selection: Selection) -> None:
    """Raise `UnknownNameError` for a selected name that occurs in none of the suites."""
    suites = tuple(suites)
    for kind, names in (
        ("precision", selection.precisions),
        ("model", selection.models),
        ("measurement", selection.measures),
    ):
        known = {entry.name for suite in suites for entry in getattr(suite, f"{kind}s")}
        for name in names:
            check_name(kind, name, known)


def build_cells(suite: Suite, selection: Selection | None = None) -> tuple[Cell, ...]:
    """The selected cells: model by model, the reference's first, then in the suite's order.

    Only the selected ones: without the reference's where that is not selected. A measurement that
    needs a fresh process comes before those that would disturb it.
    """
    chosen = selection or Selection()
    measurements = sort_fresh_first(
        m for m in suite.measurements if not chosen.measures or m.name in chosen.measures
    )
    precisions = sorted(suite.precisions, key=lambda p: p.name != suite.reference)
    return tuple(
        Cell(model, precision, measurements)
        for model in suite.models
        if measurements and (not chosen.models or model.name in chosen.models)
        for precision in precisions
        if not chosen.precisions or precision.name in chosen.precisions
    )


def sort_fresh_first(measurements: Iterable[MeasurementSpec]) -> tuple[MeasurementSpec, ...]:
    """Those that need a fresh process first, else in the order given."""
    return tuple(sorted(measurements, key=lambda m: not load_measurement(m.name).fresh_process))


def has_paired_values(measurement: str) -> bool:
    """Whether a metric or task has values that compare with the reference's record."""
    return any(spec.paired for spec in load_measurement(measurement).values.values())
