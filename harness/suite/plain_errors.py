"""Validate a part of a document with a pydantic model and say what is wrong in plain language.

Only words the errors: the rules are the models'. Knows nothing of what the models mean.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.catalog import describe_unknown
from harness.suite.yaml_positions import Document, Location

Model = TypeVar("Model", bound=BaseModel)

_BOUNDS = {
    "greater_than_equal": ("ge", "of at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "of at most"),
    "less_than": ("lt", "below"),
}
_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
    "none": "nothing",
}


def validate(
    model: type[Model],
    value: Any,
    document: Document,
    location: Location,
    extra_keys: Sequence[str] = (),
) -> Model | None:
    """The model's instance, or None with every mistake reported to ``document``.

    ``location`` is where ``value`` stands; ``extra_keys`` are keys that the caller has taken out of
    the mapping, listed as known beside the model's own.
    """
    try:
        # JSON rules: strict about types, but a list may become a tuple.
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        _report(error, model, value, document, location, extra_keys)
        return None


def check_keys(
    value: dict[str, Any],
    known: Sequence[str],
    required: Iterable[str],
    document: Document,
    location: Location = (),
) -> None:
    """Report the keys of a mapping that are unknown and those that are missing."""
    for key in value:
        if key not in known:
            message = prefix(location, describe_unknown("key", key, known))
            document.report((*location, key), message, "key")
    for key in required:
        if key not in value:
            document.report(location, prefix(location, f"missing key {key!r}"))


def describe_found(value: Any, text: str | None = None) -> str:
    """A value as a person would call it: ``the string '256'``, ``the boolean no``, ``a list``."""
    if value is None:
        return f"nothing (YAML reads {text} as no value; put it in quotes)" if text else "nothing"
    if isinstance(value, bool):
        return f"the boolean {text or str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {text or value}"
    if isinstance(value, str):
        return f"the string {value[:60]!r}" + (" …" if len(value) > 60 else "")
    return "a mapping" if isinstance(value, dict) else "a list"


def expected_text(value: Any, text: str | None) -> str:
    """``expected a string, found …`` with the remedy for what YAML took for something else."""
    found = describe_found(value, text)
    if isinstance(value, (bool, int, float)):
        found += f"; put it in quotes: '{text if text else value}'"
    return f"expected a string, found {found}"


def prefix(location: Location, message: str) -> str:
    """The message after the dotted path of its place, ``models[0].name: …``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return f"{path}: {message}" if path else message


def _report(
    error: ValidationError,
    model: type[BaseModel],
    value: Any,
    document: Document,
    location: Location,
    extra_keys: Sequence[str],
) -> None:
    expectations: dict[Location, list[str]] = {}
    for detail in error.errors(include_url=False):
        inside, found = _follow(detail, value)
        place = (*location, *inside)
        kind = detail["type"]
        if kind == "missing":
            document.report(place[:-1], prefix(place[:-1], f"missing key {place[-1]!r}"))
        elif kind == "extra_forbidden":
            owner = _model_at(model, inside[:-1])
            known = [*(owner.model_fields if owner else ()), *(() if inside[1:] else extra_keys)]
            message = prefix(place[:-1], describe_unknown("key", place[-1], known))
            document.report(place, message, "key")
        elif kind in ("value_error", "assertion_error"):
            message = str(detail["ctx"]["error"])
            named = _key_named_in(message, found)
            at = (*place, named) if named else place
            document.report(at, prefix(place, message), "value" if named or place else "key")
        elif kind != "too_short" or len(found) < detail["ctx"]["min_length"]:
            expectations.setdefault(place, []).append(_expectation(detail))
    for place, expected in expectations.items():
        found = _value_at(value, place[len(location) :])
        text = document.text(place)
        if set(expected) == {"a string"}:
            message = expected_text(found, text)
        else:
            wanted = " or ".join(dict.fromkeys(expected))
            message = f"expected {wanted}, found {_brief(found, text, wanted)}"
        document.report(place, prefix(place, message), "key" if found is None else "value")


def _expectation(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = context[key]
        return (
            f"an integer {words} {bound}" if type(bound) is int else f"a number {words} {bound:g}"
        )
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    if kind == "too_short":
        return f"a list of at least {context['min_length']} item(s)"
    if kind == "too_long":
        return f"a list of at most {context['max_length']} item(s)"
    if kind == "string_too_short":
        return "a string that is not empty"
    if context.get("class_name") == "DataSource":
        return "a string or a mapping"
    noun = kind.split("_")[0]
    known = noun in _EXPECTED and kind.endswith(("_type", "_parsing", "_from_float"))
    return _EXPECTED[noun] if known else detail["msg"].removeprefix("Input should be ")


def _brief(found: Any, text: str | None, wanted: str) -> str:
    """What was found beside what was wanted, with the likely remedy."""
    if isinstance(found, str):
        if found.replace(".", "", 1).lstrip("+-").isdigit() and "string" not in wanted:
            return f"the string {found!r}; remove the quotes"
        options = [part.strip("' ") for part in wanted.replace(" or ", ",").split(",")]
        close = difflib.get_close_matches(found, options, n=1, cutoff=0.5)
        if wanted.startswith("'"):
            return repr(found) + (f"; did you mean {close[0]!r}?" if close else "")
        return f"the string {found!r}"
    if type(found) in (int, float) and wanted.split()[-1][-1].isdigit():  # beside a bound
        return str(text or found)
    if isinstance(found, list) and "item" in wanted:
        return f"{len(found)}" if found else "an empty one"
    return describe_found(found, text)


def _follow(detail: ErrorDetails, value: Any) -> tuple[Location, Any]:
    """The error's location without the names that pydantic gives to a union's branches."""
    inside: list[str | int] = []
    parts = detail["loc"]
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if _holds(value, part):
            value = value[part]
            inside.append(part)
        elif last and detail["type"] == "missing":
            inside.append(part)
    return tuple(inside), value


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _value_at(value: Any, location: Location) -> Any:
    for part in location:
        value = value[part]
    return value


def _key_named_in(message: str, value: Any) -> str | None:
    """The key of ``value`` that a message about the whole mapping mentions first."""
    if not isinstance(value, dict):
        return None
    words = message.replace(":", " ").replace("`", " ").replace(",", " ").split()
    return next((word for word in words if word in value), None)


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The pydantic model that a nested mapping is read with."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        current = _find_model(field.annotation) if field else None
        if current is None:
            return None
    return current if isinstance(current, type) else None


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, tuple, list, Annotated):
        return next((m for a in get_args(annotation) if (m := _find_model(a))), None)
    return None
