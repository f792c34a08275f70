"""The JSON Schemas of suites, run files and thresholds: generated from the models that read them.

``python -m harness.cli.schema`` writes ``harness/suite.schema.json``, with which editors complete a
suite, ``harness/run.schema.json`` and ``harness/thresholds.schema.json``; ``-`` prints the first.
They describe single parts; only `harness.suite.read` checks how parts fit (is the reference
listed?).
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from harness.catalog import list_measurements, list_names, load_measurement, load_precision
from harness.records.run_file import SCHEMA, Run
from harness.suite.suite_file import suite_file_model
from harness.verdicts.thresholds import SCHEMA as THRESHOLDS_SCHEMA
from harness.verdicts.thresholds import Thresholds

SCHEMA_FILE = Path(__file__).parents[1] / "suite.schema.json"
RUN_SCHEMA_FILE = Path(__file__).parents[1] / "run.schema.json"
THRESHOLDS_SCHEMA_FILE = Path(__file__).parents[1] / "thresholds.schema.json"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def suite_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the YAML as users write it, short forms included."""
    schema = _describe(suite_file_model())
    definitions = schema["$defs"]
    precisions = list_names("precisions")
    help_lines = [load_precision(name).help.strip().split("\n")[0] for name in precisions]
    by_name = {"enum": list(precisions), "description": "\n".join(help_lines)}
    # anyOf, not oneOf: so that an editor shows what is wrong with the nearest of them.
    mappings = [{"$ref": f"#/$defs/{name}"} for name in precisions]
    schema["properties"]["precisions"]["items"] = {"anyOf": [by_name, *mappings]}
    measure = definitions["Measure"]
    measure["minProperties"] = 1
    for name, options in measure["properties"].items():
        fields = load_measurement(name).options.model_fields.values()
        if not any(field.is_required() for field in fields):
            reference = {"$ref": options.pop("$ref")}
            options["anyOf"] = [reference, {"type": "null"}]
    definitions["LimitEntry"]["properties"]["metric"] |= _list_metrics()
    return _versioned(schema, "suite")


def run_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a run file; its ``schema`` is the version described."""
    return _versioned(_describe(Run), "run", SCHEMA)


def thresholds_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a thresholds file."""
    return _versioned(_describe(Thresholds), "thresholds", THRESHOLDS_SCHEMA)


def write_schemas() -> None:
    """Bring the shipped files up to date."""
    for path, schema in (
        (SCHEMA_FILE, suite_json_schema()),
        (RUN_SCHEMA_FILE, run_json_schema()),
        (THRESHOLDS_SCHEMA_FILE, thresholds_json_schema()),
    ):
        path.write_text(format_schema(schema), encoding="utf-8")


def format_schema(schema: dict[str, Any] | None = None) -> str:
    """The text of a shipped file; the suite's by default."""
    return json.dumps(schema or suite_json_schema(), indent=1, ensure_ascii=False) + "\n"


def _describe(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(schema_generator=_Generator)


def _versioned(schema: dict[str, Any], title: str, version: int | None = None) -> dict[str, Any]:
    """A schema of this draft; with a version, files must have it as ``schema``."""
    if version is not None:
        schema["properties"]["schema"] = {
            "const": version,
            "description": "version of this format",
        }
        schema["required"] = ["schema", *schema["required"]]
    return {"$schema": _DRAFT, **schema, "title": f"precision-harness {title}"}


def _list_metrics() -> dict[str, Any]:
    """Every ``family.value``, and ``family.value[qualifier]`` where there is one."""
    plain, qualified = [], []
    for family in list_measurements():
        for value, spec in load_measurement(family).values.items():
            if spec.per is None or spec.total:
                plain.append(f"{family}.{value}")
            if spec.per is not None:
                qualified.append(rf"{family}\.{value}")
    pattern = rf"^({'|'.join(qualified)})\[[^\[\]]+\]$"
    return {"anyOf": [{"enum": plain}, {"pattern": pattern}]}


class _Generator(GenerateJsonSchema):
    """Without the titles of fields, which repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(format_schema())
    else:
        write_schemas()
