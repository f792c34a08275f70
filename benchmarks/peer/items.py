"""The items of both sides: the same rows, in the files that each of them reads.

A data folder is laid out as ``mmlu/{dev,test}/<subject>_{dev,test}.csv`` (as published),
``hellaswag/*.jsonl`` (original fields) and ``wikitext2/wiki.test.raw``; without one everything
comes from the hub.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LETTERS = "ABCD"
# lm-eval's names of a text's perplexities, and ours.
PERPLEXITIES = {
    "word_perplexity": "word_perplexity",
    "byte_perplexity": "byte_perplexity",
    "bits_per_byte": "bits_per_byte",
}
Rows = list[list[str]]


def write_mmlu(folder: Path, data: Path | None, subject: str, limit: int | None) -> Path:
    """One subject, for us as published in ``folder/mmlu``, for lm-eval as jsonl beside it."""
    for split in ("dev", "test"):
        rows = read_mmlu(data, subject, split)
        rows = rows[:limit] if split == "test" else rows
        path = folder / "mmlu" / split / f"{subject}_{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        write_jsonl(
            folder / f"mmlu_{subject}_{split}.jsonl",
            ({"question": r[0], "choices": r[1:5], "answer": LETTERS.index(r[5])} for r in rows),
        )
    return folder / "mmlu"


def write_arc(path: Path, data: Path | None, subject: str, limit: int | None) -> Path:
    """Questions of an MMLU subject in ARC's own format: options as texts, a letter as the key."""
    return write_jsonl(
        path,
        (
            {
                "id": f"{subject}/{i}",
                "question": row[0],
                "choices": {"text": row[1:5], "label": list(LETTERS)},
                "answerKey": row[5],
            }
            for i, row in enumerate(read_mmlu(data, subject, "test")[:limit])
        ),
    )


def write_hellaswag(path: Path, data: Path | None, limit: int | None) -> Path:
    """The first validation items, labels as text: the hub's way, which lm-eval expects."""
    rows = read_hellaswag(data)[:limit]
    return write_jsonl(path, ({**row, "label": str(row["label"])} for row in rows))


def write_text(folder: Path, data: Path | None, size: int) -> Path:
    """WikiText-2's test split up to ``size`` bytes, cut at a line's end."""
    text = read_wikitext(data)
    kept = text.encode()[:size].decode(errors="ignore")
    if len(kept) < len(text):
        kept = kept[: kept.rfind("\n") + 1] or kept
    path = folder / "wiki.txt"
    path.write_text(kept, encoding="utf-8")
    write_jsonl(folder / "wiki.jsonl", [{"page": kept}])
    return path


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_mmlu(data: Path | None, subject: str, split: str) -> Rows:
    """Rows of question, four options and the answer's letter."""
    if data is None:
        return [
            [row["question"], *row["choices"], LETTERS[row["answer"]]]
            for row in _load_hub("cais/mmlu", subject, split)
        ]
    path = data / "mmlu" / split / f"{subject}_{split}.csv"
    if not path.is_file():
        known = sorted(p.stem.removesuffix(f"_{split}") for p in path.parent.glob("*.csv"))
        raise SystemExit(f"no {path}; subjects there: {', '.join(known) or 'none'}")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def read_hellaswag(data: Path | None) -> Sequence[Mapping[str, Any]]:
    if data is None:
        return list(_load_hub("Rowan/hellaswag", None, "validation"))
    files = sorted((data / "hellaswag").glob("*.jsonl"))
    if not files:
        raise SystemExit(f"no hellaswag/*.jsonl in {data}")
    return [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]


def read_wikitext(data: Path | None) -> str:
    if data is None:
        lines = _load_hub("Salesforce/wikitext", "wikitext-2-raw-v1", "test")
        return "".join(line["text"] for line in lines)
    return (data / "wikitext2" / "wiki.test.raw").read_text(encoding="utf-8")


def _load_hub(path: str, name: str | None, split: str) -> Any:
    import datasets

    return datasets.load_dataset(path, name, split=split)
