"""A run with everything that a report shows, made without measuring; names may be hostile."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from harness.records.find_runs import Found
from harness.records.questions import FOLDER
from harness.records.record import Record, Validity, Value, Verdict
from harness.records.run_file import Run
from tests.support.records import make_record, make_run

SIZES = {"fp32": 4_000_000, "int8": 1_400_000, "nf4": 1_000_000, "fp4": 1_000_000}
RATIOS = {"int8": 1.001, "nf4": 1.05, "fp4": 1.3}
DECODE = {"fp32": (100.0, 700.0), "int8": (40.0, 300.0), "nf4": (90.0, 600.0), "fp4": (90.0, 600.0)}
# Words that would act where a page forgot to escape them.
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}$x^2$\u202e"
_QUESTION = {"id": "rivers/0", "choices": ["Elm", "Oak"], "answer": 0}


def make_page_run(
    text: str = "plain", model: str = "m", suite: str = "s", **facts: Any
) -> tuple[Run, dict[str, bytes]]:
    """The run, and the files beside it. ``text`` stands wherever data or a person has words.

    nf4 holds its limit, fp4 breaks its, int8 is undecided.
    """
    line = json.dumps({**_QUESTION, "question": f"Which river? {text}"}) + "\n"
    lines = (line * 2).encode()
    name = f"{hashlib.sha256(lines).hexdigest()[:16]}.jsonl.gz"
    records = [record for precision in SIZES for record in _make_cell(model, precision, text, name)]
    run = make_run(*records, suite=suite, **facts)
    limits = [{"metric": "perplexity.ratio", "precision": list(RATIOS), "max": 1.1}]
    asked = [{"name": record.measurement} for record in records[:6]]
    named = {**run.suite, "reference": "fp32", "limits": limits, "measurements": asked}
    return run.model_copy(update={"suite": named}), {f"{FOLDER}/{name}": gzip.compress(lines)}


def find_page_run(text: str = "plain", **given: Any) -> Found:
    """The same as if it had been found on disk, under a name with the words in it."""
    run, beside = make_page_run(text, **given)
    return Found(f"run {text}.json", run, beside.get)


def write_page_run(folder: Path, name: str, text: str = "plain", **given: Any) -> Path:
    """The run file and what belongs beside it, in a folder."""
    from harness.records.run_file import write_run

    run, beside = make_page_run(text, **given)
    for file, content in beside.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return write_run(run, folder / name)


def _make_cell(model: str, precision: str, text: str, questions: str) -> list[Record]:
    is_reference = precision == "fp32"
    made = [
        _make_footprint(precision),
        _make_perplexity(precision, text),
        _make_divergence(precision),
        _make_choices(precision, questions),
        _make_texts(precision, text),
        _make_speeds(precision, text),
        _make_memory(precision),
    ]
    return [
        record.model_copy(
            update={
                "cell": record.cell.model_copy(
                    update={"model": model, "id": f"{model}[{precision}]"}
                ),
                "paired": {} if is_reference else record.paired,
            }
        )
        for record in made
    ]


def _make_footprint(precision: str) -> Record:
    size = SIZES[precision]
    values = {"total_bytes": Value(value=size, unit="bytes", better="lower")}
    paired = {"size_ratio": Value(value=size / SIZES["fp32"], better="lower")}
    return make_record("footprint", precision, values=values, paired=paired)


def _make_perplexity(precision: str, text: str) -> Record:
    ratio = RATIOS.get(precision, 1.0)
    value = Value(value=ratio, stderr=0.01, interval=(ratio - 0.02, ratio + 0.02), better="lower")
    outcome: Any = {"int8": "INCONCLUSIVE", "nf4": "PASS", "fp4": "FAIL"}.get(precision)
    verdict = Verdict(
        verdict=outcome or "PASS",
        metric="perplexity.ratio",
        bound="max 1.1",
        value=ratio,
        text=f"{precision} {text}: the verdict in words",
    )
    return make_record(
        "perplexity",
        precision,
        values={"ppl": Value(value=5 * ratio, stderr=0.1)},
        paired={"ratio": value},
        verdicts=(verdict,) if outcome else (),
        protocol={"context": 256, "text": {"path": f"text {text}"}},
    )


def _make_divergence(precision: str) -> Record:
    mean = 10 * (RATIOS.get(precision, 1.0) - 1)
    if not mean:
        return make_record("divergence", precision)
    parts = {f"kl_mean[q{i}]": mean * i / 2.5 for i in range(1, 5)}
    values = {
        name: Value(value=value, unit="nats/token", stderr=value / 10, better="lower")
        for name, value in {"kl_mean": mean, **parts}.items()
    }
    return make_record("divergence", precision, values=values)


def _make_choices(precision: str, questions: str) -> Record:
    chosen = {"fp32": "AA", "nf4": "AA"}.get(precision, "BA")
    right = chosen.replace("A", "1").replace("B", "0")
    share = right.count("1") / 2
    paired = {"accuracy_drop": Value(value=1 - share, stderr=0.1, better="lower")}
    if share < 1:
        paired["accuracy_drop[rivers]"] = Value(value=1 - share, interval=(0.1, 0.9))
    values = {"acc": Value(value=share, stderr=0.1), "acc[rivers]": Value(value=share)}
    items = {
        "right": right,
        "chosen": chosen,
        "subjects": {"rivers": 2},
        "log_likelihoods": [[-1.0, -2.0] if mark == "A" else [-2.0, -1.0] for mark in chosen],
        "questions": questions,
    }
    protocol = {"items_sha256": "same"}
    return make_record(
        "mmlu", precision, values=values, paired=paired, items=items, protocol=protocol
    )


def _make_texts(precision: str, text: str) -> Record:
    end = "a mill." if precision == "fp4" else "a mountain."
    items = {
        "prompts": [f"What is {text}?"],
        "texts": [f" It is {text}, {end}"],
        "tokens": [[1, 2, 3 if precision == "fp4" else 4]],
    }
    paired = {"identical_rate": Value(value=0.0 if precision == "fp4" else 1.0)}
    values = {"items": 1}
    return make_record("side_by_side", precision, values=values, items=items, paired=paired)


def _make_speeds(precision: str, text: str) -> Record:
    values: dict[str, Value] = {}
    paired: dict[str, Value] = {}
    for batch, speed, reference in zip((1, 8), DECODE[precision], DECODE["fp32"], strict=True):
        values |= {
            f"decode_tokens_per_s[{batch}]": Value(value=speed, unit="tokens/s", stderr=1.0),
            f"prefill_tokens_per_s[{batch}]": Value(value=10 * speed, unit="tokens/s"),
            f"mbu[{batch}]": Value(value=0.5),
        }
        paired[f"decode_speedup[{batch}]"] = Value(value=speed / reference)
    busy = Validity(status="flagged", reasons=(f"the machine was busy: {text}",))
    made = make_record("throughput", precision, values=values, paired=paired)
    return made.model_copy(update={"validity": busy if precision == "int8" else Validity()})


def _make_memory(precision: str) -> Record:
    names = ("load_peak", "weights", "prefill_peak", "generate_peak", "peak")
    size = 2 * SIZES[precision]
    values = {f"{name}_bytes": Value(value=size, unit="bytes", better="lower") for name in names}
    return make_record("memory", precision, values=values)
