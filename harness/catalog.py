"""Find precisions, metrics and tasks by file name: the folder is the registry.

Knows nothing of what the modules do; imports one only when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from types import ModuleType


class UnknownNameError(ValueError):
    """A name that no file answers to; the message lists the known ones and the closest."""


@cache
def list_names(kind: str) -> tuple[str, ...]:
    """Module names in ``harness/<kind>/``, sorted; kind is precisions, metrics or tasks."""
    package = importlib.import_module(f"harness.{kind}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@cache
def list_measurements() -> tuple[str, ...]:
    """Names usable under ``measure:``: every metric or task that declares ``VALUES``."""
    names = [
        name
        for kind in ("metrics", "tasks")
        for name in list_names(kind)
        if hasattr(importlib.import_module(f"harness.{kind}.{name}"), "VALUES")
    ]
    return tuple(sorted(names))


def load_precision(name: str) -> ModuleType:
    """The module of one precision; raises `UnknownNameError`."""
    if name not in list_names("precisions"):
        raise UnknownNameError(describe_unknown("precision", name, list_names("precisions")))
    return importlib.import_module(f"harness.precisions.{name}")


def load_measurement(name: str) -> ModuleType:
    """The module of one metric or task usable under ``measure:``; raises `UnknownNameError`."""
    if name not in list_measurements():
        raise UnknownNameError(describe_unknown("metric or task", name, list_measurements()))
    kind = "metrics" if name in list_names("metrics") else "tasks"
    return importlib.import_module(f"harness.{kind}.{name}")


def describe_unknown(what: str, name: object, known: Iterable[str]) -> str:
    """``unknown WHAT 'NAME'; did you mean 'CLOSEST'? known: A, B, C``."""
    known = sorted(known)
    spelled = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.5)
    hint = f"; did you mean {spelled[close[0]]!r}?" if close else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(known) or 'none'}"
