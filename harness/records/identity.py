"""Whether two records of the same cell may be compared: only what is compared may differ. Pure.

Quality depends on weights, tokenizer, data, protocol, precision and libraries; speed and memory on
the machine as well. Which commit was checked out is what a comparison is about, and never asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.catalog import load_measurement
from harness.records.record import Record
from harness.records.run_file import Run
from harness.verdicts.pairing import differing_fields

LIBRARIES = ("torch", "transformers", "bitsandbytes", "accelerate", "tokenizers")
# Of what was attested: the rest says how, or repeats the libraries.
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
_BOARD = ("name", "memory_bytes", "power_limit_w", "max_sm_mhz", "max_memory_mhz", "mig")


@dataclass(frozen=True)
class Difference:
    """A field that differs, and what it is on either side."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field} ({_show(self.a)} → {_show(self.b)})"


def find_differences(a: Run, ours: Record, b: Run, theirs: Record) -> tuple[Difference, ...]:
    """The fields that make a record of run ``a`` and one of run ``b`` incomparable, in order."""
    first, second = describe(a.environment, ours), describe(b.environment, theirs)
    found = [
        Difference(name, first.get(name), second.get(name))
        for name in dict.fromkeys((*first, *second))
        if first.get(name) != second.get(name)
    ]
    protocols = (ours.protocol, theirs.protocol)
    return (
        *found,
        *(
            Difference(f"protocol.{name}", *(protocol.get(name) for protocol in protocols))
            for name in differing_fields(*protocols)
        ),
    )


def describe(environment: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """Everything but the protocol that a number of this record depends on."""
    cell, libraries = record.cell, environment.get("libraries", {})
    facts: dict[str, Any] = {
        "device": cell.device.partition(":")[0],
        # Random weights have no file: what they are made of stands for them.
        "weights": cell.weights_sha256 or cell.source,
        "tokenizer": cell.tokenizer_sha256,
        **{f"precision.{name}": value for name, value in sorted(cell.declared.items())},
        **{name: (cell.attested or {}).get(name) for name in _ATTESTED},
        **{f"libraries.{name}": libraries.get(name) for name in LIBRARIES},
    }
    module = load_measurement(record.measurement)
    if module.timed or module.fresh_process:
        facts |= _describe_machine(environment, cell.device)
    return facts


def _describe_machine(environment: Mapping[str, Any], device: str) -> dict[str, Any]:
    """What a speed or a peak depends on: the board and its settings, or the processor."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        gpu = environment.get("gpu", {})
        boards = gpu.get("devices", ())
        number = int(index or 0)
        board = boards[number] if number < len(boards) else {}
        return {
            "gpu.driver": gpu.get("driver"),
            **{f"gpu.{name}": board.get(name) for name in _BOARD},
        }
    cpu, torch = environment.get("cpu", {}), environment.get("torch", {})
    return {
        **{f"cpu.{name}": cpu.get(name) for name in ("name", "usable_cores", "quota_cores")},
        "threads": torch.get("threads"),
    }


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
