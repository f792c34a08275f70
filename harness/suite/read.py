"""A suite file: YAML -> frozen `Suite`, complete before anything loads.

Reaches no network and imports nothing heavy. Every mistake of a file is reported at once, with
file:line:column; whether a hub id exists is found out when the model is loaded.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.catalog import (
    UnknownNameError,
    list_measurements,
    list_names,
    load_measurement,
    load_precision,
)
from harness.descriptions import OptionsBase
from harness.errors import InputError
from harness.suite.data_source import reads_data
from harness.suite.explain import describe_found, read_as, validate
from harness.suite.limits import Limit, LimitEntry, Scope, check_contradictions
from harness.suite.models import Heading, MeasurementSpec, PrecisionSpec, Suite
from harness.suite.suite_file import PrecisionEntry, suite_file_model
from harness.suite.yaml_file import Location, Problem, YamlFile


class SuiteError(InputError):
    """What is wrong with a suite file: one line per problem, ``file:line:column: message``."""

    def __init__(self, shown_path: str, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        lines = [f"{shown_path}:{p.line}:{p.column}: {p.message}" for p in self.problems]
        super().__init__("\n".join(lines))


def load_suite(path: Path, root: Path | None = None) -> Suite:
    """Read and check a suite file; its path is shown relative to ``root``.

    Raises `SuiteError` naming every mistake.
    """
    shown = show_path(path, root)
    try:
        file = YamlFile(path.read_bytes())
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise SuiteError(shown, [Problem(1, 1, f"cannot read the suite: {reason}")]) from error
    suite = None
    if isinstance(file.value, dict):
        suite = _read_suite(file, path.absolute(), shown)
    elif not file.problems:
        found = "an empty file" if file.value is None else describe_found(file.value)
        keys = "name, models, precisions, measure"
        file.report((), f"expected a mapping with the keys {keys}, found {found}")
    if suite is None:
        raise SuiteError(shown, file.problems)
    return suite


def show_path(path: Path, root: Path | None = None) -> str:
    """A suite's path as it stands before the line of a mistake: relative to ``root`` if inside."""
    try:
        return path.absolute().relative_to((root or Path()).absolute()).as_posix()
    except ValueError:
        return path.as_posix()


def _read_suite(file: YamlFile, path: Path, shown: str) -> Suite | None:
    given = file.value
    scope = _read_scope(given, path.parent)
    read = validate(suite_file_model(), given, file, scope)
    _check_distinct_names(file, given)
    _check_reference(file, given, scope)
    _check_random_models(file, given, scope)
    limits = _read_limits(file, given, scope, shown)
    check_contradictions(file, limits)
    if read is None or file.problems:
        return None
    return Suite(
        **{name: getattr(read, name) for name in Heading.model_fields},
        models=read.models,
        precisions=tuple(_make_precision(entry) for entry in read.precisions),
        measurements=tuple(
            MeasurementSpec(name=name, options=options)
            for name, options in scope.measured.items()
            if options is not None
        ),
        limits=tuple(limit for _, limit in limits),
        path=path,
    )


def _list_entries(given: dict[str, Any], key: str) -> list[tuple[Location, dict[str, Any]]]:
    """Location and value of the mappings in a top-level list; a name stands for one with it."""
    entries = given.get(key)
    named = [
        {"name": entry} if isinstance(entry, str) else entry
        for entry in (entries if isinstance(entries, list) else ())
    ]
    return [((key, i), entry) for i, entry in enumerate(named) if isinstance(entry, dict)]


def _read_scope(given: dict[str, Any], folder: Path) -> Scope:
    """What entries refer to, entries with mistakes included, so that each is reported once."""
    names = {}
    for key in ("models", "precisions"):
        found = [entry.get("name") for _, entry in _list_entries(given, key)]
        names[key] = tuple(dict.fromkeys(name for name in found if isinstance(name, str)))
    own = {entry.get("name") for _, entry in _list_entries(given, "precisions") if "use" in entry}
    catalog = list_names("precisions")
    if any(name not in own and name not in catalog for name in names["precisions"]):
        names["precisions"] += catalog  # a misspelt entry meant one of them, and so may a limit
    measure, reference = given.get("measure"), given.get("reference")
    return Scope(
        folder=folder,
        models=names["models"],
        precisions=names["precisions"],
        reference=None if reference is None else str(reference),
        measured={
            name: _read_options(name, options)
            for name, options in (measure if isinstance(measure, dict) else {}).items()
        },
    )


def _read_options(name: str, given: Any) -> OptionsBase | None:
    try:
        return read_as(load_measurement(name).options, {} if given is None else given)
    except (UnknownNameError, ValidationError):
        return None


def _make_precision(entry: PrecisionEntry) -> PrecisionSpec:
    use = entry.use or entry.name
    kind = load_precision(use).options
    options = kind(**{name: getattr(entry, name) for name in kind.model_fields})
    return PrecisionSpec(name=entry.name, use=use, options=options, engine=entry.engine)


def _read_limits(
    file: YamlFile, given: dict[str, Any], scope: Scope, shown: str
) -> list[tuple[Location, Limit]]:
    """The limits without mistakes of their own, whatever is wrong elsewhere."""
    limits = []
    for location, value in _list_entries(given, "limits"):
        try:
            entry = read_as(LimitEntry, value, scope)
        except ValidationError:
            continue
        line, column = file.place(location)
        filled = {
            **dict(entry),
            "precision": entry.list_precisions(scope),
            "model": entry.model or scope.models,
        }
        limits.append((location, Limit(**filled, position=f"{shown}:{line}:{column}")))
    return limits


def _check_distinct_names(file: YamlFile, given: dict[str, Any]) -> None:
    for key in ("models", "precisions"):
        seen: dict[str, Location] = {}
        for location, entry in _list_entries(given, key):
            name = entry.get("name")
            if isinstance(name, str) and seen.setdefault(name, location) != location:
                line, column = file.place((*seen[name], "name"))
                what = f"{key.removesuffix('s')} name {name!r}"
                message = f"{what} is used twice; first at {line}:{column}"
                file.report(location, message, value_of="name")


def _check_reference(file: YamlFile, given: dict[str, Any], scope: Scope) -> None:
    """Report what compares with a reference where the suite names none."""
    if scope.reference is not None:
        return
    for name in scope.measured:
        if name in list_measurements() and load_measurement(name).needs_reference:
            message = f"{name} compares with a reference: add `reference:` and a precision's name"
            file.report(("measure",), message, key=name)
    if given.get("noise") is True:
        file.report((), "noise: there is no `reference:` to measure a second time", key="noise")


def _check_random_models(file: YamlFile, given: dict[str, Any], scope: Scope) -> None:
    """Random weights come without a tokenizer, which reading a text needs."""
    measured = scope.measured.items()
    reading = [name for name, options in measured if options and reads_data(type(options))]
    message = (
        "random weights come without a tokenizer, so this model cannot be measured with "
        f"{', '.join(reading)}: set `tokenizer:` or measure it in a suite of its own"
    )
    for location, model in _list_entries(given, "models"):
        if model.get("weights") == "random" and not model.get("tokenizer") and reading:
            file.report(location, message)
