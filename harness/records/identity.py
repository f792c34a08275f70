"""What a number depends on, listed in one place. Pure.

Three kinds are kept apart. Where the *question* differs (data, prompts, protocol, tokenizer; for
speed and memory the device), two numbers cannot be compared. What is *under test* (weights,
precision, attested kernels, libraries, driver, our own code) may differ: watching it is what a
comparison is for, and what differs is the suspect. *Conditions* are settings of the machine under
which a speed was taken: where they differ a speed is flagged. Which commit was checked out is never
listed.
"""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from harness.catalog import UnknownNameError, list_readers, load_measurement
from harness.records.record import Record
from harness.suite.allowed import CONDITIONS, is_question

# The libraries that compute every number; those that quantise are named by their layer readers.
_LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers")
# Attested facts that decide what is computed; the others repeat the libraries or say how.
_ATTESTED = (
    *("quantisation", "compute_dtype", "linear_dtypes", "output_head", "tf32", "attention"),
)
_WEIGHTS = "weights_sha256"
_SHORT = 24  # characters of a value that is shown whole


@dataclass(frozen=True)
class Difference:
    """A field that differs, with its value on either side."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field} ({_show(self.a)} → {_show(self.b)})"

    @property
    def short(self) -> str:
        """The change in a few words: ``bitsandbytes 0.49 → 0.50``, or only ``weights``."""
        name = self.field.removeprefix("libraries.").removesuffix("_sha256")
        a, b = ("none" if side is None else str(side) for side in (self.a, self.b))
        is_plain = len(a) <= _SHORT and len(b) <= _SHORT and "sha256:" not in a + b
        return f"{name} {a} → {b}" if is_plain else name


@dataclass(frozen=True)
class Changes:
    """What differs between two measurements, by what it means for comparing them.

    - ``refused``: parts of the question, so that the numbers cannot be compared.
    - ``allowed``: parts of the question that somebody allowed to differ.
    - ``conditions``: settings of the machine.
    - ``suspects``: what is under test and known on both sides.
    """

    refused: tuple[Difference, ...] = ()
    allowed: tuple[Difference, ...] = ()
    conditions: tuple[Difference, ...] = ()
    suspects: tuple[Difference, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """A sentence for each difference that a reader of the numbers must know."""
        return (
            *(f"{one} was allowed to differ" for one in self.allowed),
            *(f"{one} differs, under which it was measured" for one in self.conditions),
        )

    def name_suspects(self, since: str) -> str:
        """``; since <since>: weights, bitsandbytes 0.49 → 0.50``, or nothing."""
        changed = dict.fromkeys(one.short for one in self.suspects)
        return f"; since {since}: {', '.join(changed)}" if changed else ""


def compare_facts(
    a: Mapping[str, Any], b: Mapping[str, Any], allow: Collection[str] = ()
) -> Changes:
    """The facts that differ, sorted. ``allow`` names fields that may differ, or their groups."""
    found: dict[str, list[Difference]] = {}
    for one in find_differences(a, b):
        if is_question(one.field):
            names = {one.field, one.field.partition(".")[0]}
            kind = "allowed" if names & {*allow} else "refused"
        elif None in (one.a, one.b):
            continue  # what one side did not record is unknown, not changed
        else:
            kind = "conditions" if one.field in CONDITIONS else "suspects"
        found.setdefault(kind, []).append(one)
    return Changes(**{kind: tuple(ones) for kind, ones in found.items()})


def list_libraries() -> tuple[str, ...]:
    """The libraries that compute a number, those that quantise among them."""
    return (*_LIBRARIES, *(reader.library for reader in list_readers()))


def identify(environment: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """Everything that the numbers of ``record`` depend on; ``environment`` is that of its run."""
    cell, libraries = record.cell, environment.get("libraries", {})
    settings = dict.fromkeys(name for reader in list_readers() for name in reader.identity)
    kind = cell.device.partition(":")[0]
    attested = cell.attested or {}
    # The measurement's own where it has some.
    kernels = record.protocol.get("attention_kernels", attested.get("attention_kernels")) or {}
    kernels = _join_kernels(kernels)
    facts = {
        "device": kind,
        **_list_question(record),
        **_list_declared(record),
        **{name: attested.get(name) for name in (*_ATTESTED, *settings)},
        **{f"attention_kernels.{of}": kernel for of, kernel in kernels.items()},
        **_pick("libraries", libraries, *list_libraries()),
        "harness": environment.get("harness", {}).get("sources_sha256"),
    }
    metric = load_measurement(record.measurement)
    if not (metric.timed or metric.fresh_process):
        return facts
    if kind == "cuda":
        board = find_board(environment, cell.device)
        facts |= _pick("gpu", environment.get("gpu", {}), "driver")
        facts |= _pick("gpu", board, "name", "memory_bytes", "mig")
        conditions = [name.partition(".")[2] for name in CONDITIONS] if metric.timed else []
        return facts | _pick("gpu", board, *conditions)
    cpu = _pick("cpu", environment.get("cpu", {}), "name", "usable_cores", "quota_cores")
    return facts | cpu | {"threads": environment.get("torch", {}).get("threads")}


def find_board(environment: Mapping[str, Any], device: str) -> Mapping[str, Any]:
    """NVML's facts about the GPU that ``device`` was; empty where there are none.

    By the number that the run found for it: CUDA's own depends on its environment. Files without
    that number are read by CUDA's.
    """
    gpu = environment.get("gpu", {})
    boards = gpu.get("devices") or ()
    kind, _, index = device.partition(":")
    number = gpu.get("used", int(index or 0))
    return boards[number] if kind == "cuda" and number < len(boards) else {}


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


def list_with_weights(record: Record) -> list[str]:
    """The parts of the question that also name weights, which are facts of their own."""
    parts = list_protocol(record).items()
    return [f"protocol.{n}" for n, part in parts if isinstance(part, Mapping) and _WEIGHTS in part]


def list_outcomes(record: Record, *values: str) -> dict[str, Any]:
    """What came out item by item: the rows that the descriptions of ``values`` name.

    Without ``values`` those of all values. Where none is named: all but how it was computed. So the
    outcome of a question is its answer, and not a likelihood in its fourth digit.
    """
    specs: Mapping[str, Any] = {}
    with contextlib.suppress(UnknownNameError):
        specs = load_measurement(record.measurement).values
    named = [specs[name] for name in values or specs]
    rows = {row for spec in named for row in (spec.row, spec.answers) if row}
    if rows:
        return {name: row for name, row in record.items.items() if name in rows}
    return _without_how(record, record.items)


def identify_series(record: Record) -> dict[str, Any]:
    """The facts that stay the same along a series over time: the question.

    A change of anything else, such as weights, is what a history is there to show.
    """
    facts = _list_question(record)
    facts.pop("protocol.tokenizer_sha256", None)  # repeats the tokenizer
    return {name: value for name, value in facts.items() if is_question(name)}


def list_suspects(environment: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """What may explain a change over time: what is under test, and settings of the machine."""
    board = find_board(environment, "cuda")
    picked = {
        "python": ("version",),
        "gpu": ("driver",),
        "cpu": ("usable_cores", "quota_cores"),
        "torch": ("threads",),
        "harness": ("version",),
    }
    under_test = {**_list_question(record), **_list_declared(record)}
    facts = {n: v for n, v in under_test.items() if not is_question(n)}
    facts |= environment.get("libraries", {})
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


def _list_question(record: Record) -> dict[str, Any]:
    """Tokenizer and protocol; the weights that a protocol names are under test, as all are."""
    facts = {"tokenizer": record.cell.tokenizer_sha256}
    for name, value in list_protocol(record).items():
        if isinstance(value, Mapping) and _WEIGHTS in value:
            facts[f"{name}'s weights"] = value[_WEIGHTS]
            value = {key: fact for key, fact in value.items() if key != _WEIGHTS}
        facts[f"protocol.{name}"] = value
    return facts


def _list_declared(record: Record) -> dict[str, Any]:
    cell = record.cell
    return {
        # Random weights have no file: their source describes how they are made.
        "weights": cell.weights_sha256 or cell.source,
        **{f"precision.{name}": value for name, value in sorted(cell.declared.items())},
    }


def _join_kernels(kernels: Mapping[str, Any]) -> dict[str, str | None]:
    """By kind of pass, those of all workloads where a speed names them by workload."""
    workloads = [one for one in kernels.values() if isinstance(one, Mapping)] or [kernels]
    joined: dict[str, set[str]] = {}
    for one in workloads:
        for kind, names in one.items():
            joined.setdefault(kind, set()).update(names.split(", ") if names else ())
    return {kind: ", ".join(sorted(names)) or None for kind, names in joined.items()}


def _pick(group: str, facts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {f"{group}.{name}": facts.get(name) for name in names}


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
