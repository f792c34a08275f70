"""Where the harness keeps files that it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$PRECISION_HARNESS_CACHE``, else ``precision-harness`` in the user's cache folder."""
    given = os.environ.get("PRECISION_HARNESS_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "precision-harness"
