"""The JSON Schemas of suites, run files and thresholds: generated from the models that read them.

``python -m harness.cli.schema`` writes ``harness/suite.schema.json``, with which editors complete a
suite, ``harness/run.schema.json`` and ``harness/thresholds.schema.json``; ``-`` prints the first.
They describe single parts; what takes two of them (is the reference listed?) only
`harness.suite.read` checks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from harness.catalog import list_measurements, list_names, load_measurement, load_precision
from harness.descriptions import Metric
from harness.records.run_file import SCHEMA, Run
from harness.suite.models import NAME_PATTERN, Heading, LimitEntry, ModelSpec
from harness.verdicts.thresholds import SCHEMA as THRESHOLDS_SCHEMA
from harness.verdicts.thresholds import Thresholds

SCHEMA_FILE = Path(__file__).parents[1] / "suite.schema.json"
RUN_SCHEMA_FILE = Path(__file__).parents[1] / "run.schema.json"
THRESHOLDS_SCHEMA_FILE = Path(__file__).parents[1] / "thresholds.schema.json"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{model}"


def suite_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the YAML as users write it, short forms included."""
    precisions = {name: load_precision(name) for name in list_names("precisions")}
    measurements = {name: load_measurement(name) for name in list_measurements()}
    parts: list[type[BaseModel]] = [Heading, ModelSpec, LimitEntry]
    parts += [precision.options for precision in precisions.values()]
    parts += [metric.options for metric in measurements.values()]
    references, shared = models_json_schema(
        [(part, "validation") for part in parts], ref_template=_REF
    )
    definitions = shared["$defs"]
    _accept_short_forms(definitions)
    definitions["LimitEntry"]["properties"]["metric"] |= _metric_names(measurements)

    def definition(part: type[BaseModel]) -> Any:
        key = references[part, "validation"]["$ref"].removeprefix(_REF.format(model=""))
        return definitions[key]

    heading = definition(Heading)["properties"]
    schema = {
        "description": "Models x precisions, what to measure on each, and the limits to hold.",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "models", "precisions", "measure"],
        "properties": {
            **heading,
            "models": _list_of(references[ModelSpec, "validation"]),
            "precisions": _list_of({"$ref": "#/$defs/Precision"}),
            "measure": {
                "type": "object",
                "description": "What to measure, by metric or task.",
                "minProperties": 1,
                "additionalProperties": False,
                "properties": {
                    name: _measurement(module.help, module.options, definition(module.options))
                    for name, module in measurements.items()
                },
            },
            "limits": {
                "anyOf": [
                    {"type": "array", "items": references[LimitEntry, "validation"]},
                    {"type": "null"},
                ]
            },
        },
    }
    options = {name: definition(module.options) for name, module in precisions.items()}
    help_texts = {name: module.help for name, module in precisions.items()}
    definitions = {"Precision": _precision(options, help_texts), **definitions}
    return {
        "$schema": _DRAFT,
        "title": "precision-harness suite",
        **_without_titles(schema),
        "$defs": _without_titles(_keep_used(definitions, schema)),
    }


def run_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a run file; its ``schema`` is the version described."""
    return _versioned(Run, SCHEMA, "run")


def thresholds_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a thresholds file."""
    return _versioned(Thresholds, THRESHOLDS_SCHEMA, "thresholds")


def _versioned(model: type[BaseModel], version: int, title: str) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    schema["properties"]["schema"] = {"const": version, "description": "version of this format"}
    schema["required"] = ["schema", *schema["required"]]  # what reads it demands it too
    return {"$schema": _DRAFT, "title": f"precision-harness {title}", **_without_titles(schema)}


def write_schemas() -> None:
    """Bring the shipped files up to date."""
    SCHEMA_FILE.write_text(format_schema(), encoding="utf-8")
    RUN_SCHEMA_FILE.write_text(format_schema(run_json_schema()), encoding="utf-8")
    THRESHOLDS_SCHEMA_FILE.write_text(format_schema(thresholds_json_schema()), encoding="utf-8")


def format_schema(schema: dict[str, Any] | None = None) -> str:
    """The text of a shipped file; the suite's by default."""
    return json.dumps(schema or suite_json_schema(), indent=1, ensure_ascii=False) + "\n"


def _list_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


def _accept_short_forms(definitions: dict[str, Any]) -> None:
    """A data source may be a plain string; a random model must have a mapping as source."""
    source = definitions["DataSource"]
    mapping = {key: source.pop(key) for key in ("type", "properties", "required")}
    mapping["additionalProperties"] = source.pop("additionalProperties")
    source["anyOf"] = [{"type": "string", "minLength": 1}, mapping]
    definitions["ModelSpec"] |= {
        "if": {"required": ["source"], "properties": {"source": {"type": "object"}}},
        "then": {"required": ["weights"], "properties": {"weights": {"const": "random"}}},
        "else": {"properties": {"weights": {"type": "null"}}},
    }
    definitions["LimitEntry"]["anyOf"] = [{"required": ["max"]}, {"required": ["min"]}]


def _measurement(
    help_text: str | None, options: type[BaseModel], definition: dict[str, Any]
) -> dict[str, Any]:
    """A mapping of options; nothing at all where every option has a default."""
    description = f"{_first_line(help_text)}\n\n{definition.get('description', '')}".strip()
    mapping = {**definition, "description": description}
    if any(field.is_required() for field in options.model_fields.values()):
        return mapping
    return {"description": description, "anyOf": [definition, {"type": "null"}]}


def _metric_names(measurements: dict[str, Metric]) -> dict[str, Any]:
    """Every ``family.value``, and ``family.value[qualifier]`` where there is one."""
    plain, qualified = [], []
    for family, module in measurements.items():
        for value, spec in module.values.items():
            if spec.per != "batch size":
                plain.append(f"{family}.{value}")
            if spec.per is not None:
                qualified.append(rf"{family}\.{value}")
    pattern = rf"^({'|'.join(qualified)})\[[^\[\]]+\]$"
    return {"anyOf": [{"enum": plain}, {"pattern": pattern}]}


def _precision(options: dict[str, Any], help_texts: dict[str, str]) -> dict[str, Any]:
    """A name, or a mapping whose other keys are the options of the precision it uses."""
    names = {
        "enum": list(options),
        "description": "\n".join(_first_line(help_texts[name]) for name in options),
    }
    mappings = [
        {
            "type": "object",
            "description": f"{_first_line(help_texts[name])}\n\n{definition['description']}",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "pattern": NAME_PATTERN},
                "use": {"const": name},
                **definition.get("properties", {}),
            },
            "anyOf": [{"required": ["use"]}, {"properties": {"name": {"const": name}}}],
        }
        for name, definition in options.items()
    ]
    return {"anyOf": [names, *mappings]}


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _keep_used(definitions: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The definitions that the schema refers to, directly or through others."""
    used: dict[str, Any] = {}
    while True:
        text = json.dumps([schema, used])
        found = {k: v for k, v in definitions.items() if f'"{_REF.format(model=k)}"' in text}
        if found.keys() == used.keys():
            return found
        used = found


def _without_titles(schema: Any) -> Any:
    """Drop pydantic's titles: they repeat the keys."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    if isinstance(schema, list):
        return [_without_titles(value) for value in schema]
    return schema


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(format_schema())
    else:
        write_schemas()
