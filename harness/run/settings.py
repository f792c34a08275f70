"""What a run is asked to do. Apart from the run itself, which takes longer to import."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunSettings:
    """How to run: where results go, whether cells get a process, how long one may take.

    ``against`` names what the run is judged by in addition to its limits, ``allow`` what may differ
    from it, see `find_baseline`. ``confirm``: where a speed is suspicious, what was blessed is
    measured again beside it. ``program`` is how pytest was started in ``folder``, with those
    ``options`` that decide what is measured and judged. ``until_decided``: more processes are
    measured for what is open, for about ``at_most_s`` seconds if that is given.
    """

    results: Path
    argv: tuple[str, ...]
    root: Path
    against: str | None = None
    allow: tuple[str, ...] = ()
    isolate: bool = True
    cell_timeout_s: float | None = None
    until_decided: bool = False
    at_most_s: float | None = None
    confirm: bool = False
    program: tuple[str, ...] = ("pytest",)
    options: tuple[str, ...] = ()
    folder: Path = Path()

    def show_command(self, suite: Path, cell: str, measurement: str, *more: str) -> str:
        """What a person types in ``folder`` to make one measurement again, with more options."""
        node = f"{os.path.relpath(suite, self.folder)}::{cell}::{measurement}"
        return shlex.join([*self.program, node, *self.options, *more])
