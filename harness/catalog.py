"""Find precisions, metrics, tasks and engines by file name: the folder is the registry.

Knows nothing of what the files do; imports a folder's only when one of them is asked for.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import Any

from harness.descriptions import LayerReader, Metric, Precision
from harness.errors import InputError

# What a file of each folder calls its description.
_CONSTANTS = {"precisions": "PRECISION", "metrics": "METRIC", "tasks": "TASK"}


class UnknownNameError(InputError):
    """A name without a file; the message lists the known ones and the closest."""


def list_names(kind: str) -> tuple[str, ...]:
    """Sorted names of the descriptions in ``harness/<kind>/``: precisions, metrics or tasks."""
    return tuple(sorted(_load_folder(kind)))


def list_measurements() -> tuple[str, ...]:
    """Names that a suite may use under ``measure:``: every metric and task."""
    return tuple(sorted((*list_names("metrics"), *list_names("tasks"))))


@cache
def list_engines() -> tuple[str, ...]:
    """Names of the engines, each a file or folder; imports none."""
    package = importlib.import_module("harness.engines")
    names = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return tuple(sorted(names - {"base", "shared"}))


def load_precision(name: str) -> Precision:
    """The description of one precision; raises `UnknownNameError`."""
    known = _load_folder("precisions")
    precision: Precision = known[check_name("precision", name, known)]
    return precision


def list_readers() -> tuple[LayerReader, ...]:
    """The readers of quantised layers of all precisions, each library's once."""
    readers = (precision.layers for precision in _load_folder("precisions").values())
    return tuple(dict.fromkeys(reader for reader in readers if reader is not None))


def load_measurement(name: str) -> Metric:
    """The description of one metric or task; raises `UnknownNameError`."""
    known = {**_load_folder("metrics"), **_load_folder("tasks")}
    metric: Metric = known[check_name("metric or task", name, known)]
    return metric


def load_engine(name: str) -> Callable[[Any], Any]:
    """The ``load`` function of one engine, which imports torch; raises `UnknownNameError`."""
    load: Callable[[Any], Any] = load_engine_part(name, "load")
    return load


def load_engine_part(name: str, part: str) -> Any:
    """A function of one engine, which imports torch; None where the engine has none of that name.

    Raises `UnknownNameError`.
    """
    check_name("engine", name, list_engines())
    return getattr(importlib.import_module(f"harness.engines.{name}"), part, None)


def preload_engines() -> None:
    """Import the engines of all precisions and call their `preload`, where they have one."""
    for name in dict.fromkeys(p.engine for p in _load_folder("precisions").values()):
        engine = importlib.import_module(f"harness.engines.{name}")
        getattr(engine, "preload", lambda: None)()


def describe_unknown(what: str, name: object, known: Iterable[str]) -> str:
    """``unknown WHAT 'NAME'; did you mean 'CLOSEST'? Known: A, B, C``."""
    known = sorted(known)
    spelled = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.5)
    hint = f"; did you mean {spelled[close[0]]!r}?" if close else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(known) or 'none'}"


def check_name(what: str, name: str, known: Collection[str], where: str = "") -> str:
    """``name``; raises `UnknownNameError`, ending in ``where``, if it is not one of the known."""
    if name not in known:
        raise UnknownNameError(f"{describe_unknown(what, name, known)}{where}")
    return name


@cache
def _load_folder(kind: str) -> dict[str, Any]:
    """Every description of a folder by its file's name."""
    package = importlib.import_module(f"harness.{kind}")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    modules = {name: importlib.import_module(f"harness.{kind}.{name}") for name in names}
    found = {name: getattr(module, _CONSTANTS[kind], None) for name, module in modules.items()}
    return {name: description for name, description in found.items() if description is not None}
