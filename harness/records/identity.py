"""What a number depends on, listed in one place. Pure.

`harness compare` keeps three kinds apart: the *question* (data, protocol, tokenizer; for speed and
memory the device model), where a difference makes two numbers incomparable; what is *under test*
(weights, precision, attested kernels, libraries, driver); and *conditions* (settings of the machine
under which a speed or a peak was taken). Which commit was checked out is what a comparison is
about, and is never listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.catalog import UnknownNameError, list_readers, load_measurement
from harness.records.record import Record

# The libraries that compute every number; those that quantise are named by their layer readers.
_LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers")
# Attested facts that decide what is computed; the others repeat the libraries or say how.
_ATTESTED = (
    *("quantisation", "compute_dtype", "linear_dtypes", "output_head", "tf32", "attention"),
)


@dataclass(frozen=True)
class Difference:
    """A field that differs, with its value on either side."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field} ({_show(self.a)} → {_show(self.b)})"


def list_libraries() -> tuple[str, ...]:
    """The libraries that compute a number, those that quantise among them."""
    return (*_LIBRARIES, *(reader.library for reader in list_readers()))


def identify(environment: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """Everything that the numbers of ``record`` depend on; ``environment`` is that of its run."""
    cell, libraries = record.cell, environment.get("libraries", {})
    settings = dict.fromkeys(name for reader in list_readers() for name in reader.identity)
    kind, _, index = cell.device.partition(":")
    facts = {
        "device": kind,
        **_list_inputs(record),
        **_list_declared(record),
        **{name: (cell.attested or {}).get(name) for name in (*_ATTESTED, *settings)},
        **_pick("libraries", libraries, *list_libraries()),
    }
    metric = load_measurement(record.measurement)
    if not (metric.timed or metric.fresh_process):
        return facts
    if kind == "cuda":
        gpu = environment.get("gpu", {})
        boards, number = gpu.get("devices", ()), int(index or 0)
        board = boards[number] if number < len(boards) else {}
        limits = ("power_limit_w", "max_sm_mhz", "max_memory_mhz")
        names = ("name", "memory_bytes", "mig", *limits)
        return facts | _pick("gpu", gpu, "driver") | _pick("gpu", board, *names)
    cpu = _pick("cpu", environment.get("cpu", {}), "name", "usable_cores", "quota_cores")
    return facts | cpu | {"threads": environment.get("torch", {}).get("threads")}


def find_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The facts that differ; a missing one counts as None."""
    return tuple(
        Difference(name, a.get(name), b.get(name))
        for name in dict.fromkeys((*a, *b))
        if a.get(name) != b.get(name)
    )


def list_differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """The names, sorted, of the facts that differ."""
    return tuple(sorted(one.field for one in find_differences(a, b)))


def list_protocol(record: Record) -> dict[str, Any]:
    """What was measured: where it differs between two records, their numbers are incomparable."""
    return _without_how(record, record.protocol)


def list_outcomes(record: Record) -> dict[str, Any]:
    """What came out item by item, without how it was computed."""
    return _without_how(record, record.items)


def identify_series(record: Record) -> dict[str, Any]:
    """The facts that stay the same along a series over time: the question and what was declared.

    A change of anything else, such as a library, is what a history is there to show.
    """
    facts = {**_list_declared(record), **_list_inputs(record)}
    facts.pop("protocol.tokenizer_sha256", None)  # repeats the tokenizer
    return facts


def list_suspects(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What may explain a change of any number over time: software and settings of the machine."""
    board = (environment.get("gpu", {}).get("devices") or [{}])[0]
    picked = {
        "python": ("version",),
        "gpu": ("driver",),
        "cpu": ("usable_cores", "quota_cores"),
        "torch": ("threads",),
        "harness": ("version",),
    }
    facts = dict(environment.get("libraries", {}))
    for group, names in picked.items():
        facts |= _pick(group, environment.get(group, {}), *names)
    return facts | _pick("gpu", board, "power_limit_w")


def list_software(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of the environment that a stored quality or memory number may depend on."""
    groups = ("libraries", "variables", "harness", "python", "torch")
    return {
        "environment": {group: environment.get(group) for group in groups},
        "cpu": environment.get("cpu", {}).get("name"),
    }


def _without_how(record: Record, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the metric declares as ``how``; everything of a metric that is unknown here."""
    try:
        how = load_measurement(record.measurement).how
    except UnknownNameError:
        how = frozenset()
    return {name: value for name, value in facts.items() if name not in how}


def _list_inputs(record: Record) -> dict[str, Any]:
    return {
        "tokenizer": record.cell.tokenizer_sha256,
        **{f"protocol.{name}": value for name, value in list_protocol(record).items()},
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
