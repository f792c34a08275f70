"""Find precisions, metrics and tasks by file name: the folder is the registry.

Knows nothing of what the modules do; imports one only when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from harness.descriptions import Metric, Precision


class UnknownNameError(ValueError):
    """A name that no file answers to; the message lists the known ones and the closest."""


# What a file of each folder calls its description.
_CONSTANTS = {"precisions": "PRECISION", "metrics": "METRIC", "tasks": "TASK"}


@cache
def list_names(kind: str) -> tuple[str, ...]:
    """Names of the files in ``harness/<kind>/`` that hold a description, sorted.

    ``kind`` is precisions, metrics or tasks.
    """
    return tuple(sorted(_load_all(kind)))


@cache
def list_measurements() -> tuple[str, ...]:
    """Names that a suite may use under ``measure:``: every metric and task."""
    return tuple(sorted((*list_names("metrics"), *list_names("tasks"))))


def load_precision(name: str) -> Precision:
    """The description of one precision; raises `UnknownNameError`."""
    if name not in list_names("precisions"):
        raise UnknownNameError(describe_unknown("precision", name, list_names("precisions")))
    precision: Precision = _load_all("precisions")[name]
    return precision


def load_measurement(name: str) -> Metric:
    """The description of one metric or task; raises `UnknownNameError`."""
    if name not in list_measurements():
        raise UnknownNameError(describe_unknown("metric or task", name, list_measurements()))
    metric: Metric = {**_load_all("metrics"), **_load_all("tasks")}[name]
    return metric


@cache
def _load_all(kind: str) -> dict[str, Any]:
    """Every description of a folder by its file's name."""
    package = importlib.import_module(f"harness.{kind}")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    modules = {name: importlib.import_module(f"harness.{kind}.{name}") for name in names}
    found = {name: getattr(module, _CONSTANTS[kind], None) for name, module in modules.items()}
    return {name: description for name, description in found.items() if description is not None}


@cache
def list_engines() -> tuple[str, ...]:
    """Names of the engines, found without importing them: each one is a file or folder."""
    package = importlib.import_module("harness.engines")
    names = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return tuple(sorted(names - {"base", "shared"}))


def load_engine(name: str) -> Callable[[Any], Any]:
    """The ``load`` function of one engine, which imports torch; raises `UnknownNameError`."""
    if name not in list_engines():
        raise UnknownNameError(describe_unknown("engine", name, list_engines()))
    load: Callable[[Any], Any] = importlib.import_module(f"harness.engines.{name}").load
    return load


def describe_unknown(what: str, name: object, known: Iterable[str]) -> str:
    """``unknown WHAT 'NAME'; did you mean 'CLOSEST'? known: A, B, C``."""
    known = sorted(known)
    spelled = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.5)
    hint = f"; did you mean {spelled[close[0]]!r}?" if close else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(known) or 'none'}"
