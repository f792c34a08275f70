"""What a benchmark writes down: its numbers, and the machine and libraries they came from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.machine.environment import describe_cpu

_LIBRARIES = ("lm_eval", "torch", "transformers", "tokenizers", "datasets", "numpy")


def describe_machine(libraries: Sequence[str] = _LIBRARIES) -> dict[str, Any]:
    """Processor and versions; no host's name and no path."""
    return {
        "cpu": describe_cpu()["name"] or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in libraries},
    }


def write_results(path: Path, result: dict[str, Any]) -> Path:
    """Write ``result`` as JSON and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
