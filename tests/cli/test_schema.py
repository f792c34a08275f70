"""The JSON Schema that editors complete suites with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from harness.cli.schema import format_schema, locate_schema, make_schema
from tests.support.suite_files import PERPLEXITY, RANDOM, suite_text

SUITES = Path(__file__).parents[2] / "suites"
SCHEMA_FILE = locate_schema("suite")


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema.Draft202012Validator(make_schema("suite"))


def test_the_shipped_schema_is_up_to_date() -> None:
    """If this fails, run ``python -m harness.cli.schema``."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == format_schema("suite")


def test_it_is_a_valid_schema_of_its_draft() -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_suite_names_it_and_passes(path: Path, validator: Any) -> None:
    text = path.read_text(encoding="utf-8")
    first_line = text.split("\n", 1)[0]
    assert first_line == f"# yaml-language-server: $schema=../harness/{SCHEMA_FILE.name}"
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"reference": None},
        {"models": f"models: [{RANDOM}]"},
        {"models": "models: [{name: m, source: a/b, requires: {memory: 6GiB}}]"},
        {"models": "models: [{name: m, source: a/b, requires: {memory: 1024}}]"},
        {"precisions": "precisions: [{name: nf4, double_quant: true}]"},
        {"precisions": "precisions: [{name: mine, use: nf4, compute_dtype: float16}]"},
        {"precisions": "precisions: [{name: nf4, engine: transformers}]"},
        {"measure": f"measure: {{{PERPLEXITY}}}"},
        {"measure": "measure: {perplexity: {text: {path: a/b, split: test}}}"},
        {"limits": "limits: [{precision: nf4, model: [m], metric: footprint.size_ratio, max: 1}]"},
        {"limits": "limits: [{metric: 'throughput.tpot_s[8]', max: 1}]"},
        {"limits": "limits: [{metric: mmlu.acc, min: 0.3}]"},
        {"limits": "limits: [{metric: 'mmlu.acc[anatomy]', min: 0.3}]"},
        {"limits": "limits:"},
    ],
)
def test_what_may_be_written_passes(parts: dict[str, Any], validator: Any) -> None:
    validator.validate(yaml.safe_load(suite_text(**parts)))


@pytest.mark.parametrize(
    "parts",
    [
        {"name": None},
        {"name": "name: no"},
        {"name": "name: a b"},
        {"name": "name: s\nmodles: 3"},
        {"models": "models: []"},
        {"models": "models: [{name: m}]"},
        {"models": "models: [{name: m, source: a/b, revison: x}]"},
        {"models": "models: [{name: m, source: a/b, weights: random}]"},
        {"models": "models: [{name: m, source: {architecture: llama}}]"},
        {"models": "models: [{name: m, source: a/b, requires: {memory: 6gb}}]"},
        {"models": "models: [{name: m, source: a/b, requires: {device: gpu}}]"},
        {"precisions": "precisions: [nf5]"},
        {"precisions": "precisions: [{name: mine, double_quant: true}]"},
        {"precisions": "precisions: [{name: nf4, engine: transformer}]"},
        {"precisions": "precisions: [{name: mine, use: int8, double_quant: true}]"},
        {"measure": "measure: {}"},
        {"measure": "measure: {perplexitty: {}}"},
        {"measure": "measure: {perplexity: }"},
        {"measure": "measure: {perplexity: {text: a/b, context: 1}}"},
        {"measure": "measure: {memory: {batch_size: '1'}}"},
        {"limits": "limits: [{metric: footprint.size_ratio}]"},
        {"limits": "limits: [{metric: footprint.size_ratio, max: '1'}]"},
        {"limits": "limits: [{metric: footprint.size_rat, max: 1}]"},
        {"limits": "limits: [{metric: throughput.tpot_s, max: 1}]"},
        {"limits": "limits: [{metric: footprint.size_ratio, max: 1, precision: []}]"},
    ],
)
def test_common_mistakes_fail(parts: dict[str, Any], validator: Any) -> None:
    assert not validator.is_valid(yaml.safe_load(suite_text(**parts)))
