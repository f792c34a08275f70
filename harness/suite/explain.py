"""Validate the value of a YAML file with a pydantic model and explain its errors in plain words.

Only words the errors: the rules are the models'. Knows nothing of what the models mean.
"""

import difflib
import json
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harness.catalog import describe_unknown
from harness.descriptions import OptionsBase
from harness.suite.yaml_file import Location, YamlFile

Model = TypeVar("Model", bound=OptionsBase)

# What is expected, by the name of a bound and by the start of pydantic's type of error.
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
_EXPECTED = {
    "string_too_short": "a string that is not empty",
    "byte_size": "bytes such as 6GiB or 500MB",
    "int": "an integer",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
}


def read_as(model: type[Model], value: Any, context: Any = None) -> Model:
    """The model's instance by JSON's rules: strict about types, but a list may become a tuple."""
    return model.model_validate_json(json.dumps(value), context=context)


def validate(model: type[Model], value: Any, file: YamlFile, context: Any) -> Model | None:
    """The model's instance of a whole file, or None with every mistake reported to ``file``."""
    try:
        return read_as(model, value, context)
    except ValidationError as error:
        wrong_values: dict[Location, list[ErrorDetails]] = {}
        for detail in error.errors(include_url=False):
            location, found = _follow(detail, value)
            kind = detail["type"]
            if kind == "missing":
                file.report(location[:-1], f"missing key {location[-1]!r}")
            elif kind == "extra_forbidden":
                owner = _find_owner(model, detail["loc"][:-1])
                message = describe_unknown(owner.KEYS, location[-1], owner.model_fields)
                file.report(location[:-1], message, key=str(location[-1]))
            elif kind == "value_error":
                message = str(detail["ctx"]["error"])
                file.report(location, message, value_of=_key_named_in(message, found))
            elif kind != "too_short" or len(found) < detail["ctx"]["min_length"]:
                wrong_values.setdefault(location, []).append(detail)
        for location, details in wrong_values.items():
            wanted = " or ".join(dict.fromkeys(_expectation(d, model) for d in details))
            found = _follow(details[0], value)[1]
            message = f"expected {wanted}, found {_describe(found, file.text(location), wanted)}"
            file.report(location, message)
        return None


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
    if not value:
        return "an empty one"
    return "a mapping" if isinstance(value, dict) else "a list"


def _describe(found: Any, text: str | None, wanted: str) -> str:
    """What was found instead of what was wanted, with the likely remedy."""
    if wanted.startswith("'") and isinstance(found, str):
        options = [part.strip("' ") for part in wanted.replace(" or ", ",").split(",")]
        close = difflib.get_close_matches(found, options, n=1, cutoff=0.5)
        return repr(found) + (f"; did you mean {close[0]!r}?" if close else "")
    if isinstance(found, str) and found.replace(".", "", 1).lstrip("+-").isdigit():
        return f"the string {found!r}; remove the quotes"
    if isinstance(found, (bool, int, float)) and wanted == "a string":
        return f"{describe_found(found, text)}; put it in quotes: '{text or found}'"
    if type(found) in (int, float) and wanted[-1].isdigit():  # a bound
        return text or str(found)
    return describe_found(found, text)


def _expectation(detail: ErrorDetails, model: type[OptionsBase]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    for key, words in _BOUNDS.items():
        if key in context:
            bound = context[key]
            whole = type(bound) is int
            return f"an integer {words} {bound}" if whole else f"a number {words} {bound:g}"
    if kind == "too_short":
        return f"a list of at least {context['min_length']} item(s)"
    if kind == "model_type":
        return _find_owner(model, detail["loc"]).WRITTEN_AS
    known = (words for start, words in _EXPECTED.items() if kind.startswith(start))
    return next(known, detail["msg"].removeprefix("Input should be "))


def _follow(detail: ErrorDetails, value: Any) -> tuple[Location, Any]:
    """Location and value of an error, without the names that pydantic gives to unions' branches."""
    location: list[str | int] = []
    for part in detail["loc"]:
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
            location.append(part)
    if detail["type"] == "missing":
        location.append(detail["loc"][-1])
    return tuple(location), value


def _find_owner(model: type[OptionsBase], path: Location) -> type[OptionsBase]:
    """The model that reads the mapping at an error's location; branches go by their name."""
    found = [model]
    for part in path:
        named = [candidate for candidate in found if candidate.__name__ == part]
        fields = [m.model_fields[part] for m in found if part in m.model_fields]
        found = named or [m for field in fields for m in _list_models(field.annotation)] or found
    return found[0]


def _list_models(annotation: Any) -> Iterator[type[OptionsBase]]:
    if isinstance(annotation, type) and issubclass(annotation, OptionsBase):
        yield annotation
    for argument in get_args(annotation):
        yield from _list_models(argument)


def _key_named_in(message: str, value: Any) -> str | None:
    """The key of ``value`` that a message about the whole mapping mentions first."""
    words = message.replace(":", " ").replace("`", " ").replace(",", " ").split()
    return next((word for word in words if word in value), None) if type(value) is dict else None
