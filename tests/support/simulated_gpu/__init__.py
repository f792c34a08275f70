"""A GPU for tests on machines without one; `simulated_cuda` says what it shows and what not.

The folder is put on PYTHONPATH, so its files import nothing of this repository.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def variables(root: Path, **more: str) -> dict[str, Any]:
    """The environment of a process that shall have the GPU, and import the harness of ``root``."""
    return {"PYTHONPATH": os.pathsep.join((str(FOLDER), str(root))), **more}
