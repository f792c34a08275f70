"""Made-up records, for tests of code that uses records."""

from __future__ import annotations

from typing import Any

from harness.records.record import CellFacts, Measured, Record, Validity, Value
from harness.records.run_file import SCHEMA, Run, RunFacts

ENVIRONMENT = {
    "cpu": {"name": "Xeon", "usable_cores": 2, "quota_cores": None},
    "torch": {"threads": 2},
    "libraries": {"torch": "2.13.0", "transformers": "5.23.0", "bitsandbytes": "0.50.2"},
    "gpu": {"unavailable": "none"},
}


def make_record(
    measurement: str,
    precision: str = "fp32",
    *,
    model: str = "m",
    measured: Measured | None = None,
    values: dict[str, Any] | None = None,
    status: str = "ok",
    reasons: tuple[str, ...] = (),
    **fields: Any,
) -> Record:
    """A record of ``measurement``; ``values`` may be plain numbers."""
    made = {
        name: value if isinstance(value, Value) else Value(value=value)
        for name, value in (values or {}).items()
    }
    given = {"values": made, "validity": Validity(status=status, reasons=reasons), **fields}  # type: ignore[arg-type]
    if measured is not None:
        given |= {name: getattr(measured, name) for name in Measured.model_fields}
    cell = CellFacts(
        id=f"{model}[{precision}]", model=model, precision=precision, device="cpu", source="x"
    )
    return Record(cell=cell, measurement=measurement, **given)


def make_run(*records: Record, suite: str = "s", **facts: Any) -> Run:
    """A run of commit abcdef… on a CPU; ``environment`` and facts of the run may be given."""
    environment = facts.pop("environment", ENVIRONMENT)
    given = {
        "id": f"{suite}/20260101T000000Z-abcdef1234-cpu-xeon",
        "utc": "2026-01-01T00:00:00+00:00",
        "argv": ["pytest"],
        "git_sha": "abcdef1234" * 4,
        "git_dirty": False,
        "device": "cpu",
        **facts,
    }
    return Run(
        schema=SCHEMA,
        run=RunFacts(**given),
        environment=environment,
        suite={"name": suite, "sha256": "5" * 64},
        records=records,
    )


def make_choices(lost: int = 0, won: int = 0, n: int = 1000, **fields: Any) -> Record:
    """An mmlu record of nf4 beside one that has the even items right: so many lost and won."""
    marks = ["10"[i % 2] for i in range(n)]
    for i in range(lost):
        marks[2 * i] = "0"
    for i in range(won):
        marks[2 * i + 1] = "1"
    right = "".join(marks)
    values = {"acc": Value(value=right.count("1") / n, unit="", better="higher", n=n)}
    given = {"protocol": {"shots": 5}, "items": {"right": right, "chosen": right}, **fields}
    return make_record("mmlu", "nf4", values=values, **given)


def make_speeds(speed: float, spread: float | None = 0.01, n: int = 6, **fields: Any) -> Record:
    """A throughput record of nf4: ``n`` processes, ``spread`` the SD of one's logarithm."""
    stderr = None if spread is None else speed * spread / n**0.5
    value = Value(value=speed, unit="tokens/s", better="higher", stderr=stderr, n=n)
    values = {"decode_tokens_per_s[1]": value}
    return make_record("throughput", "nf4", values=values, **fields)


def make_peaks(peak: int, **fields: Any) -> Record:
    """A memory record of nf4."""
    names = ("load_peak", "weights", "prefill_peak", "generate_peak", "peak")
    values = {f"{name}_bytes": Value(value=peak, unit="bytes", better="lower") for name in names}
    return make_record("memory", "nf4", values=values, **fields)


def make_perplexity(*chunks: float, **fields: Any) -> Record:
    """A perplexity record of nf4 with the NLL of chunks of 100 tokens each."""
    nll = sum(chunks) / len(chunks) / 100
    values = {"ppl": Value(value=2.718281828**nll, unit="", better="lower", n=len(chunks))}
    items = {"chunk_nll": list(chunks), "chunk_tokens": [100] * len(chunks)}
    given = {"protocol": {"context": 128}, "items": items, **fields}
    return make_record("perplexity", "nf4", values=values, **given)


# One record of each kind that thresholds hold.
EVERYTHING = (
    make_choices(),
    make_perplexity(150.0, 160.0, 170.0, 155.0),
    make_speeds(100.0),
    make_peaks(1 << 30),
)
