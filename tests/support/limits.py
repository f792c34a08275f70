"""A suite, limits and perplexity records, for tests of what is compared with a reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness.catalog import load_measurement, load_precision
from harness.records.record import Record, Value, Verdict
from harness.suite.models import Limit, MeasurementSpec, ModelSpec, PrecisionSpec, Suite
from harness.verdicts.pairing import complete_record
from tests.support.records import make_record


def make_suite(*limits: Limit, reference: str | None = "fp32") -> Suite:
    given = {"text": {"path": "x.txt"}}
    return Suite(
        name="s",
        reference=reference,
        models=(ModelSpec(name="m", source="a/b"), ModelSpec(name="other", source="a/b")),
        precisions=tuple(
            PrecisionSpec(name=name, use=name, options=load_precision(name).options())
            for name in ("fp32", "nf4")
        ),
        measurements=tuple(
            MeasurementSpec(
                name=name,
                options=load_measurement(name).options(**(given if name == "perplexity" else {})),
            )
            for name in ("perplexity", "mmlu", "throughput", "footprint")
        ),
        limits=limits,
        path=Path("/s.yaml"),
    )


def limit(metric: str, **bounds: Any) -> Limit:
    given = {"precision": ("nf4",), "model": ("m",), "position": "s.yaml:9:5", **bounds}
    return Limit(metric=metric, **given)


def judge(record: Record, reference: Record | None, *limits: Limit) -> tuple[Verdict, ...]:
    return complete_record(make_suite(*limits), record, reference).verdicts


def exact(number: float, **fields: Any) -> Value:
    """A value without any spread."""
    return Value(value=number, bounds=(number, number), **fields)


def perplexity(precision: str, nll: float, **fields: Any) -> Record:
    items = {"chunk_nll": [nll * 2] * 12, "chunk_tokens": [2] * 12}
    values = {"ppl": exact(math.exp(nll)), "nll": exact(nll), "nonfinite_tokens": 0}
    given = {
        "values": values,
        "items": items,
        "protocol": {"context": 8, "text_sha256": "x"},
        **fields,
    }
    return make_record("perplexity", precision, **given)


REFERENCE = perplexity("fp32", 1.0)
CANDIDATE = perplexity("nf4", 1.25)
RATIO = math.exp(0.25)
