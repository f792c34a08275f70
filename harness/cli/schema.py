"""The JSON Schemas of suites, run files and thresholds: generated from the models that read them.

``python -m harness.cli.schema`` writes ``harness/suite.schema.json``, with which editors complete a
suite, ``run.schema.json`` and ``thresholds.schema.json``; ``-`` prints the first. They describe
single parts; only `harness.suite.read` checks how parts fit (is the reference listed?).
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

_VERSIONED: dict[str, tuple[type[BaseModel], int]] = {
    "run": (Run, SCHEMA),
    "thresholds": (Thresholds, THRESHOLDS_SCHEMA),
}
NAMES = ("suite", *_VERSIONED)


def locate_schema(name: str) -> Path:
    """The shipped file of one of `NAMES`."""
    return Path(__file__).parents[1] / f"{name}.schema.json"


def make_schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one of `NAMES`: a suite's YAML, a run or thresholds file."""
    if name in _VERSIONED:
        model, version = _VERSIONED[name]
        schema = model.model_json_schema(schema_generator=_Generator)
        about = "version of this format"
        schema["properties"]["schema"] = {"const": version, "description": about}
        schema["required"] = ["schema", *schema["required"]]
    else:
        schema = _describe_suite()
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **schema, "title": f"precision-harness {name}"}


def format_schema(name: str) -> str:
    """The text of a shipped file."""
    return json.dumps(make_schema(name), indent=1, ensure_ascii=False) + "\n"


def _describe_suite() -> dict[str, Any]:
    """The suite as users write it, short forms included."""
    schema = suite_file_model().model_json_schema(schema_generator=_Generator)
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
            options["anyOf"] = [{"$ref": options.pop("$ref")}, {"type": "null"}]
    definitions["LimitEntry"]["properties"]["metric"] |= _list_metrics()
    return schema


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
        sys.stdout.write(format_schema("suite"))
    else:
        for each in NAMES:
            locate_schema(each).write_text(format_schema(each), encoding="utf-8")
