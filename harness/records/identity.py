"""What a number depends on, listed in one place. Pure.

METHOD.md (8) keeps three kinds apart:

- The *question*: data, protocol, tokenizer, and for speed and memory the device model. Where it
  differs, two numbers do not answer the same question.
- What is *under test*: weights, precision options, attested kernels, libraries, driver: whatever
  may make a number better or worse, and is what a comparison watches.
- *Conditions*: settings of the machine under which a speed or a peak was taken.

Which commit was checked out is what a comparison is about, and is never listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.catalog import load_measurement
from harness.records.record import Record

# The libraries that compute a number.
LIBRARIES = ("torch", "transformers", "bitsandbytes", "accelerate", "tokenizers")
# Attested facts that decide what is computed; the others repeat the libraries or say how.
_ATTESTED = (
    "quantisation",
    "double_quant",
    "block_size",
    "nested_block_size",
    "compute_dtype",
    "linear_dtypes",
    "output_head",
    "tf32",
    "attention",
)
# Protocol fields that say how, or how often, something was measured, and not what.
_HOW = frozenset(
    {"method", "processes", "min_rounds", "min_time_s", "max_time_s", "roofline", "batch_sizes"}
)
# Protocol fields that only name a file whose hash is there as well.
_FILE_NAMES = {"text_sha256": ("text",), "items_sha256": ("data", "examples")}
# Groups of a record's items that say how they were computed, and not what came out.
_COST = frozenset({"cost", "batch_size", "distribution", "questions"})


@dataclass(frozen=True)
class Identity:
    """The three kinds of facts, each by field name; None where a fact is unknown."""

    question: dict[str, Any]
    under_test: dict[str, Any]
    conditions: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """All three kinds in one mapping."""
        return {**self.question, **self.under_test, **self.conditions}


@dataclass(frozen=True)
class Difference:
    """A field that differs, with its value on either side."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field} ({_show(self.a)} → {_show(self.b)})"


def identify(environment: Mapping[str, Any], record: Record) -> Identity:
    """Everything that the numbers of ``record`` depend on; ``environment`` is that of its run."""
    cell, libraries = record.cell, environment.get("libraries", {})
    question = {"device": cell.device.partition(":")[0], **_list_inputs(record)}
    under_test = {
        **_list_declared(record),
        **{name: (cell.attested or {}).get(name) for name in _ATTESTED},
        **{f"libraries.{name}": libraries.get(name) for name in LIBRARIES},
    }
    conditions: dict[str, Any] = {}
    metric = load_measurement(record.measurement)
    if metric.timed or metric.fresh_process:
        kind, _, index = cell.device.partition(":")
        if kind == "cuda":
            gpu = environment.get("gpu", {})
            boards, number = gpu.get("devices", ()), int(index or 0)
            board = boards[number] if number < len(boards) else {}
            question |= _pick("gpu", board, "name", "memory_bytes", "mig")
            under_test |= _pick("gpu", gpu, "driver")
            conditions = _pick("gpu", board, "power_limit_w", "max_sm_mhz", "max_memory_mhz")
        else:
            cpu = environment.get("cpu", {})
            question |= _pick("cpu", cpu, "name")
            conditions = _pick("cpu", cpu, "usable_cores", "quota_cores")
            conditions["threads"] = environment.get("torch", {}).get("threads")
    return Identity(question, under_test, conditions)


def find_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The facts of two identities that differ; a missing one counts as None."""
    return tuple(
        Difference(name, a.get(name), b.get(name))
        for name in dict.fromkeys((*a, *b))
        if a.get(name) != b.get(name)
    )


def differing_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The protocol fields in which two records differ, so that their numbers are incomparable."""
    found = find_differences(keep_meaning(ours), keep_meaning(theirs))
    return sorted(one.field for one in found)


def keep_meaning(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol without fields that say how, and without names of files whose hash is there."""
    names = {name for key, names in _FILE_NAMES.items() if key in protocol for name in names}
    return {key: value for key, value in protocol.items() if key not in _HOW | names}


def identify_series(record: Record) -> dict[str, Any]:
    """The facts that stay the same along a series over time: the question and what was declared.

    A change of anything else, such as a library, is what a history is there to show.
    """
    facts = {**_list_declared(record), **_list_inputs(record)}
    facts.pop("protocol.tokenizer_sha256", None)  # repeats the tokenizer
    return facts


def list_suspects(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What may explain a change of any number over time: software and settings of the machine."""
    gpu, cpu = environment.get("gpu", {}), environment.get("cpu", {})
    board = (gpu.get("devices") or [{}])[0]
    return {
        **environment.get("libraries", {}),
        **_pick("python", environment.get("python", {}), "version"),
        **_pick("gpu", gpu, "driver"),
        **_pick("cpu", cpu, "usable_cores", "quota_cores"),
        **_pick("torch", environment.get("torch", {}), "threads"),
        **_pick("harness", environment.get("harness", {}), "version"),
        **_pick("gpu", board, "power_limit_w"),
    }


def list_software(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of the environment that a stored quality or memory number may depend on."""
    groups = ("libraries", "variables", "harness", "python", "torch")
    return {
        "environment": {group: environment.get(group) for group in groups},
        "cpu": environment.get("cpu", {}).get("name"),
    }


def list_outcomes(items: Mapping[str, Any]) -> dict[str, Any]:
    """What came out item by item, without how it was computed."""
    return {name: value for name, value in items.items() if name not in _COST}


def _list_inputs(record: Record) -> dict[str, Any]:
    protocol = keep_meaning(record.protocol)
    return {
        "tokenizer": record.cell.tokenizer_sha256,
        **{f"protocol.{name}": value for name, value in protocol.items()},
    }


def _list_declared(record: Record) -> dict[str, Any]:
    cell = record.cell
    return {
        # Random weights have no file: their source describes how they are made.
        "weights": cell.weights_sha256 or cell.source,
        **{f"precision.{name}": value for name, value in sorted(cell.declared.items())},
    }


def _pick(group: str, facts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {f"{group}.{name}": facts.get(name) for name in names}


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
