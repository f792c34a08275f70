"""Node ids given on the command line: ``FILE::model[precision]::measurement``. No pytest.

pytest takes everything after the first ``[`` of an argument for one parametrisation, so the
measurement is taken off here and remembered.
"""

import os
import re
from pathlib import Path

from harness.catalog import UnknownNameError, describe_unknown
from harness.suite.cells import build_cells
from harness.suite.models import Suite

_NODE_ID = re.compile(
    r"(?P<file>.+?\.ya?ml)::(?P<model>(?:(?!::)[^\[])+)"
    r"(?:(?P<precision>\[[^\]]+\])(?:::(?P<measurement>.+))?)?"
)


class NamedNodes:
    """The models, cells and measurements that the command line names inside suite files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: list[tuple[Path, str]] = []
        self._cells: dict[tuple[Path, str], set[str] | None] = {}  # None: every measurement
        self._whole: list[Path] = []  # files and folders named as such

    def split(self, argument: str) -> str:
        """``FILE::cell`` of ``FILE::cell::measurement``; anything else as it is."""
        match = _NODE_ID.fullmatch(argument)
        if match is None:
            self._whole.append(Path(os.path.abspath(self._folder / argument.partition("::")[0])))
            return argument
        file, model, precision, measurement = match.groups()
        path = Path(os.path.abspath(self._folder / file))
        if precision is None:  # pytest then takes every precision
            self._models.append((path, model))
            return argument
        cell = model + precision
        wanted = self._cells.setdefault((path, cell), set())
        if measurement is None:
            self._cells[path, cell] = None
        elif wanted is not None:
            wanted.add(measurement)
        return f"{file}::{cell}"

    def measurements_of(self, path: Path, cell: str) -> set[str] | None:
        """The measurements named for a cell, by any argument; None for all."""
        model = cell.partition("[")[0]
        covered = (path, model) in self._models or any(map(path.is_relative_to, self._whole))
        return None if covered else self._cells.get((path, cell))

    def check(self, suite: Suite, shown_path: str) -> None:
        """Raise `UnknownNameError` for a name that the suite does not have."""
        models = {model.name for model in suite.models}
        cells = {cell.id for cell in build_cells(suite)}
        measurements = {measurement.name for measurement in suite.measurements}
        for path, model in self._models:
            if path == suite.path and model not in models:
                message = describe_unknown("model", model, models)
                raise UnknownNameError(f"{shown_path}::{model}: {message}")
        for (path, cell), wanted in self._cells.items():
            if path == suite.path and cell not in cells:
                message = describe_unknown("cell", cell, cells)
                raise UnknownNameError(f"{shown_path}::{cell}: {message}")
            for name in sorted((wanted or set()) - measurements) if path == suite.path else ():
                message = describe_unknown("measurement", name, measurements)
                raise UnknownNameError(f"{shown_path}::{cell}::{name}: {message}")
