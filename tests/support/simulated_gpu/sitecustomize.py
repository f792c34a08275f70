"""Python imports this at its start: with this folder on PYTHONPATH every process has the GPU.

torch is not imported here, only changed as soon as somebody imports it: the harness's own process
must start without it.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _After(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads a module as ever, then has `simulated_cuda` change it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loader: Any = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if self._name == "torch":
            self._loader.exec_module(module)
            import simulated_cuda

            simulated_cuda.install()
        else:
            import simulated_cuda

            with simulated_cuda.hidden():
                self._loader.exec_module(module)


# bitsandbytes would load its CUDA library; of a machine without a GPU it takes the CPU's.
sys.meta_path[:0] = [_After("torch"), _After("bitsandbytes")]
