"""A suite file: YAML -> frozen `Suite`, complete before anything loads.

Reaches no network and imports nothing heavy. Every mistake of a file is reported at once, with
file:line:column; whether a hub id exists is found out when the model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.catalog import (
    UnknownNameError,
    describe_unknown,
    list_engines,
    load_measurement,
    load_precision,
)
from harness.descriptions import OptionsBase
from harness.suite.data_source import locate_source
from harness.suite.limits import LimitScope, check_contradictions, read_limit
from harness.suite.models import (
    Heading,
    MeasurementSpec,
    ModelSpec,
    Named,
    PrecisionSpec,
    Suite,
    data_source_fields,
)
from harness.suite.plain_errors import check_keys, describe_found, expected_text, prefix, validate
from harness.suite.yaml_positions import Document, Location, Place, Problem, read_document

SUITE_KEYS = (
    "name",
    "description",
    "reference",
    "noise",
    "models",
    "precisions",
    "measure",
    "limits",
)


class SuiteError(ValueError):
    """What is wrong with a suite file: one line per problem, ``file:line:column: message``."""

    def __init__(self, shown_path: str, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        lines = [f"{shown_path}:{p.line}:{p.column}: {p.message}" for p in self.problems]
        super().__init__("\n".join(lines))


def load_suite(path: Path, root: Path | None = None) -> Suite:
    """Read and check a suite file; ``root`` is what its path is shown relative to.

    Raises `SuiteError` naming every mistake.
    """
    shown = _show_path(path, root)
    try:
        document = read_document(path.read_bytes())
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise SuiteError(shown, [Problem(1, 1, f"cannot read the suite: {reason}")]) from error
    suite = None
    if isinstance(document.value, dict):
        suite = _read_suite(document, path.absolute(), shown)
    elif not document.problems:
        keys = "a mapping with the keys name, models, precisions, measure"
        found = "an empty file" if document.value is None else describe_found(document.value)
        document.report((), f"expected {keys}, found {found}")
    if document.problems:
        raise SuiteError(shown, document.problems)
    assert suite is not None
    return suite


def _show_path(path: Path, root: Path | None) -> str:
    try:
        return path.absolute().relative_to((root or Path()).absolute()).as_posix()
    except ValueError:
        return path.as_posix()


def _read_suite(document: Document, path: Path, shown: str) -> Suite | None:
    given = document.value
    check_keys(given, SUITE_KEYS, ("models", "precisions", "measure"), document)
    heading_keys = {key: given[key] for key in Heading.model_fields if key in given}
    heading = validate(Heading, heading_keys, document, ())
    models = _read_models(document, path.parent)
    precisions = _read_precisions(document)
    measured = _read_measurements(document, path.parent)
    _check_random_models(document, models, measured)
    precision_names = _names_given(document, "precisions")
    reference = given.get("reference")
    if precision_names and isinstance(reference, str) and reference not in precision_names:
        message = describe_unknown("precision", reference, precision_names)
        document.report(("reference",), f"reference: {message} (under `precisions:`)")
    _check_reference(document, measured)
    scope = LimitScope(
        models=_names_given(document, "models"),
        precisions=precision_names,
        reference=None if reference is None else str(reference),
        measured=measured,
        shown_path=shown,
    )
    limits = []
    for location, item in _list_items(document, "limits", may_be_empty=True):
        limit = read_limit(document, location, item, scope)
        if limit is not None:
            limits.append((location, limit))
    check_contradictions(document, limits)
    if document.problems or heading is None:
        return None
    return Suite(
        **heading.model_dump(),
        models=tuple(models.values()),
        precisions=tuple(precisions),
        measurements=tuple(
            MeasurementSpec(name=name, options=options)
            for name, options in measured.items()
            if options is not None
        ),
        limits=tuple(limit for _, limit in limits),
        path=path,
    )


def _list_items(
    document: Document, key: str, may_be_empty: bool = False
) -> list[tuple[Location, Any]]:
    """Location and value of each item of a top-level list; reports what is no list, or empty."""
    items = document.value.get(key)
    if isinstance(items, list) and (items or may_be_empty):
        return [((key, index), item) for index, item in enumerate(items)]
    if key in document.value and not (items is None and may_be_empty):
        found = "an empty one" if items == [] else describe_found(items, document.text((key,)))
        document.report((key,), f"{key}: expected a list of {key}, found {found}", "key")
    return []


def _names_given(document: Document, key: str) -> tuple[str, ...]:
    """Every name in a top-level list, of wrong entries too, so that one mistake is told once."""
    items = document.value.get(key)
    names = [
        item.get("name") if isinstance(item, dict) else item
        for item in (items if isinstance(items, list) else [])
    ]
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))


def _check_unique(
    document: Document, what: str, name: str, location: Location, seen: dict[str, Place]
) -> None:
    if name in seen:
        first = seen[name]
        message = f"{what} name {name!r} is used twice; first at {first.line}:{first.column}"
        document.report(location, prefix(location, message))
    seen.setdefault(name, document.place(location))


def _read_models(document: Document, folder: Path) -> dict[Location, ModelSpec]:
    models = {}
    seen: dict[str, Place] = {}
    for location, item in _list_items(document, "models"):
        model = validate(ModelSpec, item, document, location)
        if model is not None:
            models[location] = model
        if isinstance(item, dict):
            if isinstance(item.get("name"), str):
                _check_unique(document, "model", item["name"], (*location, "name"), seen)
            _check_source(document, (*location, "source"), item.get("source"), item, folder)
            _check_source(document, (*location, "tokenizer"), item.get("tokenizer"), {}, folder)
    return models


def _check_source(
    document: Document, location: Location, source: Any, beside: dict[str, Any], folder: Path
) -> None:
    """Report a source that does not exist; ``beside`` is the mapping that may give a revision.

    Looks at the values as written, so that a mistake elsewhere in the mapping hides none here.
    """
    if not isinstance(source, str) or not source:
        return
    try:
        kind, _ = locate_source(source, folder)
    except (ValueError, OSError) as error:
        document.report(location, prefix(location, str(error)))
        return
    # Of a model ``name`` is its own; of data it is the hub dataset's part.
    for key in ("revision", "name", "split") if location[-1] == "path" else ("revision",):
        if beside.get(key) is not None and kind != "hub":
            at = (*location[:-1], key)
            what = {"builtin": "an embedded name", "local": "a local path"}[kind]
            document.report(at, prefix(at, f"{key} is only for hub ids; {source!r} is {what}"))


def _read_precisions(document: Document) -> list[PrecisionSpec]:
    precisions = []
    seen: dict[str, Place] = {}
    for location, item in _list_items(document, "precisions"):
        spec = _read_precision(document, location, item)
        if spec is not None:
            precisions.append(spec)
        if isinstance(item, str):
            _check_unique(document, "precision", item, location, seen)
        elif isinstance(item, dict) and isinstance(item.get("name"), str):
            _check_unique(document, "precision", item["name"], (*location, "name"), seen)
    return precisions


def _read_precision(document: Document, location: Location, item: Any) -> PrecisionSpec | None:
    if isinstance(item, str):
        item, use_at = {"name": item}, location
    elif isinstance(item, dict):
        use_at = (*location, "use" if "use" in item else "name")
    else:
        message = expected_text(item, document.text(location)).replace(
            "a string", "a name or a mapping", 1
        )
        document.report(location, prefix(location, message))
        return None
    if "name" not in item:
        document.report(location, prefix(location, "missing key 'name'"))
    use = item.get("use", item.get("name"))
    if not isinstance(use, str):
        if "use" in item or "name" in item:
            message = expected_text(use, document.text(use_at))
            document.report(use_at, prefix(use_at, message))
        return None
    try:
        module = load_precision(use)
    except UnknownNameError as error:
        hint = " (a name of your own needs `use:`)" if "use" not in item and len(item) > 1 else ""
        document.report(use_at, prefix(location, f"{error}{hint}"))
        return None
    rest = {key: value for key, value in item.items() if key not in ("name", "use", "engine")}
    options = validate(
        module.options, rest, document, location, extra_keys=("name", "use", "engine")
    )
    name = validate(Named, {"name": item.get("name", use)}, document, location)
    if options is None or name is None:
        return None
    engine = item.get("engine", module.engine)
    if engine not in list_engines():
        at = (*location, "engine")
        document.report(at, prefix(at, describe_unknown("engine", engine, list_engines())))
        return None
    return PrecisionSpec(name=name.name, use=use, options=options, engine=engine)


def _read_measurements(document: Document, folder: Path) -> dict[str, OptionsBase | None]:
    """Options by name, None where they are wrong."""
    given = document.value.get("measure")
    measured: dict[str, OptionsBase | None] = {}
    if "measure" in document.value and (not isinstance(given, dict) or not given):
        found = "an empty one" if given == {} else describe_found(given)
        document.report(
            ("measure",), f"measure: expected a mapping of metrics and tasks, found {found}", "key"
        )
        return {}
    for name, value in (given or {}).items():
        location = ("measure", name)
        measured[name] = None
        try:
            module = load_measurement(name)
        except UnknownNameError as error:
            document.report(location, prefix(("measure",), str(error)), "key")
            continue
        options = validate(module.options, {} if value is None else value, document, location)
        measured[name] = options
        for field in data_source_fields(module.options):
            source = value.get(field) if isinstance(value, dict) else None
            beside = source if isinstance(source, dict) else {"path": source}
            at = (*location, field, "path")
            _check_source(document, at, beside.get("path"), beside, folder)
    return measured


def _check_reference(document: Document, measured: dict[str, OptionsBase | None]) -> None:
    """Report what compares with a reference where the suite names none."""
    if document.value.get("reference") is not None:
        return
    for name in measured:
        try:
            needs_it = load_measurement(name).needs_reference
        except UnknownNameError:
            continue  # told where it is read
        if needs_it:
            message = f"{name} compares with a reference: add `reference:` and a precision's name"
            document.report(("measure", name), prefix(("measure",), message), "key")
    if document.value.get("noise") is True:
        message = "noise: there is no `reference:` to measure a second time"
        document.report(("noise",), message, "key")


def _check_random_models(
    document: Document,
    models: dict[Location, ModelSpec],
    measured: dict[str, OptionsBase | None],
) -> None:
    """Random weights come without a tokenizer, and reading a text takes one."""
    reading = [
        name
        for name, options in measured.items()
        if options is not None and data_source_fields(type(options))
    ]
    for location, model in models.items():
        if model.weights == "random" and model.tokenizer is None and reading:
            message = (
                f"model {model.name!r} has random weights and no `tokenizer:`, so it cannot be "
                f"measured with {', '.join(reading)}: set `tokenizer:` or measure it in a suite "
                "of its own"
            )
            document.report(location, prefix(location, message))
