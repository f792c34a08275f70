"""What a run will not be able to decide, said as soon as it is known, and each thing once."""

from collections.abc import Callable, Iterable, Mapping

from harness.suite.cells import Cell
from harness.suite.models import Limit, MeasurementSpec
from harness.verdicts.power_warnings import announce_items, announce_margins, announce_processes


class Announcements:
    """Sentences about limits and margins that are finer than the samples can show."""

    def __init__(
        self,
        limits: Iterable[Limit],
        planned: Mapping[tuple[str, str], tuple[Cell, MeasurementSpec]],
        on_notice: Callable[[str], None],
    ) -> None:
        self._limits = tuple(limits)
        self._planned = planned
        self._on_notice = on_notice
        self._said: set[str] = set()

    def say(self, texts: Iterable[str]) -> None:
        """Each of them that was not said before."""
        for text in texts:
            if text not in self._said:
                self._said.add(text)
                self._on_notice(text)

    def say_processes(self) -> None:
        """Limits that need more than one process."""
        for cell, spec in self._planned.values():
            names = cell.model.name, cell.precision.name
            self.say(announce_processes(self._limits, *names, spec))

    def say_items(self, cell: str, measurement: str, items: int, has_margins: bool) -> None:
        """Limits, and the margins of what the run is compared with, that need more items."""
        if has_margins:
            self.say(announce_margins(measurement, items))
        for planned, spec in self._planned.values():
            names = planned.model.name, planned.precision.name
            if spec.name == measurement and cell.startswith(f"{names[0]}["):
                self.say(announce_items(self._limits, *names, spec.name, items))
