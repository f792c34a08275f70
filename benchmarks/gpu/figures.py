"""What run files say of sizes and speeds, beside arithmetic on the model's shape.

    python -m gpu.figures FOLDER

Reads FOLDER/runs, writes FOLDER/figures.json and prints a line per problem; ends with 1 where there
is one. Judged on a GPU: bytes after loading within 2 % of the arithmetic, bytes per cached token,
bits per weight, and that every speed had settled. On a CPU, whose memory is the whole process's,
only the bytes of the tensors are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.records.run_file import Run, read_run

WITHIN = 0.02
_BLOCK = 64  # weights of nf4 and fp4 that share a scale of four bytes
_FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_SHOWN = {
    "parameters": "footprint.parameters",
    "bits_per_weight": "footprint.bits_per_weight",
    "total_bytes": "footprint.total_bytes",
    "weights_bytes": "memory.weights_bytes",
    "load_peak_bytes": "memory.load_peak_bytes",
    "generate_peak_bytes": "memory.generate_peak_bytes",
    "device_used_bytes": "memory.device_used_bytes",
    "kv_bytes_per_token": "memory.kv_bytes_per_token_measured",
    "perplexity": "perplexity.ppl",
    "kl_mean": "divergence.kl_mean",
    "mmlu": "mmlu.acc",
}
_SPEEDS = ("decode_tokens_per_s", "prefill_tokens_per_s", "mbu", "prefill_flop_utilisation")


def expect_bytes(shape: dict[str, Any], use: str, floats: int) -> dict[str, float]:
    """Bytes of a Llama's weights and bits of its linear layers, from its config alone.

    ``floats`` is the size of an unquantised weight. Quantised are the linear layers without the
    head: 4 bits and a scale of 4 bytes per 64 weights, or 8 bits and such a scale per row.
    """
    width, inner, layers = (
        shape[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    head = shape.get("head_dim") or width // heads
    matrices = [  # rows, columns
        (heads * head, width),
        (kv_heads * head, width),
        (kv_heads * head, width),
        (width, heads * head),
        (inner, width),
        (inner, width),
        (width, inner),
    ]
    embeddings = shape["vocab_size"] * width * (1 if shape.get("tie_word_embeddings") else 2)
    kept = embeddings + layers * 2 * width + width  # and the norms
    weights = sum(rows * columns for rows, columns in matrices)
    quantised = {
        "int8": weights + 4 * sum(rows for rows, _ in matrices),
        "nf4": weights // 2 + 4 * (weights // _BLOCK),
        "fp4": weights // 2 + 4 * (weights // _BLOCK),
    }
    linear = quantised.get(use, weights * floats)
    return {
        "bytes": layers * linear + kept * floats,
        "bits": 8 * linear / weights,
        "kv": 2 * layers * kv_heads * head * floats,
    }


def collect(run: Run) -> dict[str, dict[str, Any]]:
    """Cell -> its figures."""
    shapes = {m["name"]: m["source"] for m in run.suite["models"] if isinstance(m["source"], dict)}
    found: dict[str, dict[str, Any]] = {}
    for record in run.records:
        cell = found.setdefault(record.cell.id, {"device": record.cell.device})
        declared = record.cell.declared
        shape = shapes.get(record.cell.model)
        if shape is not None and record.cell.attested and not declared.get("double_quant"):
            dtype = max(record.cell.attested["dtypes"], key=record.cell.attested["dtypes"].get)
            cell["expected"] = expect_bytes(shape, declared["use"], _FLOAT_BYTES[dtype])
        for name, where in _SHOWN.items():
            measurement, _, value = where.partition(".")
            if record.measurement == measurement and value in record.values:
                cell[name] = record.values[value].value
        if record.measurement == "throughput":
            cell |= {n: v.value for n, v in record.values.items() if n.startswith(_SPEEDS)}
        reasons = [f"{record.measurement}: {reason}" for reason in record.validity.reasons]
        cell.setdefault("reasons", []).extend(reasons)
    return found


def find_problems(cells: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A sentence for each figure that is not what arithmetic says."""
    for name, cell in cells.items():
        on_gpu = cell["device"] != "cpu"
        if on_gpu:
            yield from (f"{name} {r}" for r in cell["reasons"] if "had settled" in r)
        expected = cell.get("expected")
        if expected is None:
            continue
        pairs = [
            ("total_bytes", "bytes"),
            ("bits_per_weight", "bits"),
            ("kv_bytes_per_token", "kv"),
        ]
        if on_gpu:
            pairs.append(("weights_bytes", "bytes"))
        for figure, by_shape in pairs:
            value, wanted = cell.get(figure), expected[by_shape]
            if value is not None and abs(value / wanted - 1) > WITHIN:
                yield f"{name}: {figure} is {value:,}, by its shape {wanted:,.0f}"


def main() -> int:
    folder = Path(sys.argv[1])
    cells: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "runs").rglob("*.json")):
        run = read_run(path)
        cells |= {f"{run.suite['name']}/{cell}": found for cell, found in collect(run).items()}
    problems = list(find_problems(cells)) if cells else ["no run file was found"]
    for problem in problems:
        print(problem)
    made = {"cells": cells, "problems": problems}
    (folder / "figures.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
