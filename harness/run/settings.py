"""What a run is asked to do. Apart from the run itself, which takes longer to import."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunSettings:
    """How to run: where results go, whether cells get a process, how long one may take.

    ``against`` names what the run is judged by in addition to its limits, ``allow`` what may differ
    from it, see `find_baseline`.
    """

    results: Path
    argv: tuple[str, ...]
    root: Path
    against: str | None = None
    allow: tuple[str, ...] = ()
    isolate: bool = True
    cell_timeout_s: float | None = None
