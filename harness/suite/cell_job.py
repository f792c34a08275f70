"""Everything that an engine needs to load one cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.suite.model_sources import ModelFiles
from harness.suite.models import ModelSpec, PrecisionSpec


@dataclass(frozen=True)
class CellJob:
    """What to load, on which device; crosses the process boundary."""

    model: ModelSpec
    precision: PrecisionSpec
    files: ModelFiles
    device: str
    suite_folder: Path
    online: bool
