"""A suite and a selection -> the cells to run, in order, each with its measurements.

Pure: decides nothing about devices, skips or where a reference's record comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.catalog import UnknownNameError, describe_unknown, load_measurement
from harness.suite.models import MeasurementSpec, ModelSpec, PrecisionSpec, Suite

Kind = Literal["precision", "model", "measurement"]


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


def build_cells(suite: Suite, selection: Selection | None = None) -> tuple[Cell, ...]:
    """The selected cells: model by model, the reference's first, then in the suite's order.

    Only what is selected: a reference that was not is no cell here. A measurement that needs a
    fresh process comes before those that would disturb it.
    """
    selection = selection or Selection()
    measurements = sort_fresh_first(
        m for m in suite.measurements if not selection.measures or m.name in selection.measures
    )
    if not measurements:
        return ()
    precisions = sorted(suite.precisions, key=lambda p: p.name != suite.reference)
    return tuple(
        Cell(model, precision, measurements)
        for model in suite.models
        if not selection.models or model.name in selection.models
        for precision in precisions
        if not selection.precisions or precision.name in selection.precisions
    )


def has_paired_values(measurement: str) -> bool:
    """Whether a metric or task has values that exist only beside the reference's record."""
    return any(spec.paired for spec in load_measurement(measurement).values.values())


def known_names(suites: Iterable[Suite]) -> Mapping[Kind, tuple[str, ...]]:
    """Every name that a selection may use in these suites, sorted."""
    suites = tuple(suites)
    return {
        "precision": tuple(sorted({p.name for suite in suites for p in suite.precisions})),
        "model": tuple(sorted({m.name for suite in suites for m in suite.models})),
        "measurement": tuple(sorted({m.name for suite in suites for m in suite.measurements})),
    }


def check_selection(suites: Iterable[Suite], selection: Selection) -> None:
    """Raise `UnknownNameError` for a selected name that occurs in none of the suites."""
    known = known_names(suites)
    selected: Mapping[Kind, tuple[str, ...]] = {
        "precision": selection.precisions,
        "model": selection.models,
        "measurement": selection.measures,
    }
    for kind, names in selected.items():
        for name in names:
            if name not in known[kind]:
                raise UnknownNameError(describe_unknown(kind, name, known[kind]))


def sort_fresh_first(measurements: Iterable[MeasurementSpec]) -> tuple[MeasurementSpec, ...]:
    """Those that need a fresh process first, else in the order given."""
    return tuple(sorted(measurements, key=lambda m: not load_measurement(m.name).fresh_process))
