"""One table of a whole check: every part's steps, and the figures that they left.

    python -m gpu.summary OUT

Reads OUT/<part>/steps.tsv and the JSON files beside it, of all parts that have run into OUT, at
whatever time; writes OUT/summary.json and OUT/summary.md.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

_COLUMNS = {  # figure of a cell -> heading, format, divided by
    "bits_per_weight": ("bits/weight", ".2f", 1),
    "weights_bytes": ("weights MB", ",.1f", 1e6),
    "generate_peak_bytes": ("peak MB", ",.1f", 1e6),
    "prefill_tokens_per_s[1]": ("prefill tok/s", ",.0f", 1),
    "decode_tokens_per_s[1]": ("decode tok/s", ",.1f", 1),
    "mbu[1]": ("MBU", ".2f", 1),
    "decode_tokens_per_s[1 compiled]": ("compiled tok/s", ",.1f", 1),
    "mbu[1 compiled]": ("compiled MBU", ".2f", 1),
    "perplexity": ("perplexity", ".4g", 1),
    "mmlu": ("MMLU", ".3f", 1),
}


def read_part(folder: Path) -> dict[str, Any]:
    """Its steps, and the results by the name of their file."""
    with (folder / "steps.tsv").open(encoding="utf-8") as lines:
        names = ("step", "status", "seconds", "limit")
        steps = [dict(zip(names, row, strict=True)) for row in csv.reader(lines, delimiter="\t")]
    results = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")
    }
    return {"steps": steps, **results}


def format_summary(machine: str, parts: dict[str, dict[str, Any]]) -> str:
    lines = ["# GPU check", "", machine.strip(), "", "| part | step | result | seconds | limit |"]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {part} | {' | '.join(step.values())} |"
        for part, found in parts.items()
        for step in found["steps"]
    ]
    cells = {
        name: cell
        for part in parts.values()
        for name, cell in part.get("figures", {}).get("cells", {}).items()
    }
    if cells:
        headings = [heading for heading, _, _ in _COLUMNS.values()]
        lines += ["", f"| cell | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(_format_cell(cell))} |" for name, cell in cells.items()]
    for part, found in parts.items():
        problems = found.get("figures", {}).get("problems", [])
        lines += [f"\n{part}:"] * bool(problems) + [f"- {problem}" for problem in problems]
    for row in parts.get("warmup", {}).get("attention", {}).get("rows", []):
        lines.append("")
        lines.append(f"Attention, batch {row['batch']}, prompt {row['prompt_tokens']} (seconds):")
        for side in ("with_cudnn", "without"):
            shown = {n: v if n == "kernels" else f"{v:.3g}" for n, v in row[side].items()}
            lines.append(f"- {side}: {', '.join(f'{n} {v}' for n, v in shown.items())}")
    for row in parts.get("scoring", {}).get("scoring", []):
        lines += [
            "",
            f"Scoring {row['name']} at {row['precision']}: {row['times_faster']:.2f} times as fast "
            f"as a plain pass, log-likelihoods within {row['largest_difference']:.2g}.",
        ]
    return "\n".join(lines) + "\n"


def _format_cell(cell: dict[str, Any]) -> list[str]:
    return [
        "" if cell.get(name) is None else format(cell[name] / unit, layout)
        for name, (_, layout, unit) in _COLUMNS.items()
    ]


def main() -> None:
    out = Path(sys.argv[1])
    found = sorted(out.glob("*/steps.tsv"), key=lambda path: path.stat().st_mtime)
    parts = {path.parent.name: read_part(path.parent) for path in found}
    machine = (out / "machine.txt").read_text(encoding="utf-8")
    made = {"machine": machine, "parts": parts}
    (out / "summary.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    text = format_summary(machine, parts)
    (out / "summary.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
