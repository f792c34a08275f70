"""Our scoring beside a plain batched forward pass: the same numbers, and how soon.

    python -m gpu.scoring DEVICE OUT.json [--small]

Questions of four options that share a long prefix, and windows of a text, both of random tokens.
The plain pass pads the rows on the right and takes the logits of every position, with the attention
that torch prefers; the log-softmax in float32 a row at a time, since a whole batch would take
gigabytes. Ends with 1 where a log-likelihood differs by more than rounding: TOLERANCE in float32,
and in bfloat16 where half of them differ by more than BFLOAT_MEDIAN.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gpu.attention import make_job
from harness.engines.base import Target
from harness.engines.shared.attention_kernels import cudnn_attention
from harness.engines.transformers.loading import load_cell

TOLERANCE, BFLOAT_MEDIAN = 1e-3, 0.02
BATCH = 8  # rows of a plain pass


def make_rows(vocabulary: int, small: bool) -> tuple[list[tuple[int, ...]], list[Target]]:
    """Questions of four options behind one prefix; every token of an option is a target."""
    prefix, question, option, count = (24, 8, 3, 4) if small else (600, 60, 12, 64)
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> list[int]:
        return torch.randint(3, vocabulary, (n,), generator=generator).tolist()

    shared = draw(prefix)
    rows: list[tuple[int, ...]] = []
    targets: list[Target] = []
    for _ in range(count):
        asked = shared + draw(question)
        for _ in range(4):
            answer = draw(option)
            row = len(rows)
            rows.append(tuple(asked + answer[:-1]))
            targets += [
                Target(row, len(asked) - 1 + at, token, (row, at))
                for at, token in enumerate(answer)
            ]
    return rows, targets


def score_ours(engine: Any, rows: Any, targets: Any, batch_tokens: int) -> dict[Any, float]:
    found: dict[Any, float] = {}
    engine.score_targets(
        rows,
        targets,
        lambda key, nll, _: found.__setitem__(key, nll),
        batch_tokens,
        lambda done, total: None,
    )
    return found


def score_plainly(engine: Any, rows: Any, targets: Any) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
        with torch.inference_mode(), cudnn_attention(True):
            logits = engine.model(input_ids=ids.to(engine.device), use_cache=False).logits
        for row in range(len(batch)):
            here = [t for t in targets if t.row == start + row]
            at = torch.tensor([[t.position, t.token] for t in here]).T
            values = logits[row].float().log_softmax(-1)[tuple(at.to(engine.device))].tolist()
            found |= {t.key: -value for t, value in zip(here, values, strict=True)}
    return found


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def compare(name: str, device: str, ours: Any, plain: Any, rounds: int) -> dict[str, Any]:
    """Both sides in turn; how far their numbers are apart, and the ratio of their times."""
    differences: list[float] = []
    ratios = []
    for number in range(rounds + 1):  # the first time does not count
        seconds, found = {}, {}
        sides = {"ours": ours, "plain": plain}
        for side in sides if number % 2 else reversed(sides):
            _wait(device)
            start = time.perf_counter()
            found[side] = sides[side]()
            _wait(device)
            seconds[side] = time.perf_counter() - start
        if number:
            ratios.append(seconds["plain"] / seconds["ours"])
        differences = [abs(found["ours"][key] - found["plain"][key]) for key in found["plain"]]
        assert found["ours"].keys() == found["plain"].keys()
    return {
        "name": name,
        "scored": len(differences),
        "largest_difference": max(differences),
        "median_difference": median(differences),
        "times_faster": median(ratios),
    }


def list_work(engine: Any, small: bool) -> dict[str, tuple[Any, Any]]:
    """Kind of work -> our way and the plain one."""
    rows, targets = make_rows(engine.vocabulary, small)
    seeded = torch.Generator().manual_seed(1)
    length = 33 if small else 1025
    windows = torch.randint(3, engine.vocabulary, (4, length), generator=seeded)
    every = [(row, at) for row in range(len(windows)) for at in range(length - 1)]
    window_targets = [Target(r, at, int(windows[r, at + 1]), (r, at)) for r, at in every]
    window_rows = [tuple(row[:-1]) for row in windows.tolist()]

    def score_windows() -> dict[Any, float]:
        nll = engine.score_windows(windows, length - 1).nll.tolist()
        return {(r, at): nll[r][at] for r, at in every}

    batch_tokens = BATCH * max(map(len, rows))
    return {
        "questions": (
            lambda: score_ours(engine, rows, targets, batch_tokens),
            lambda: score_plainly(engine, rows, targets),
        ),
        "windows": (score_windows, lambda: score_plainly(engine, window_rows, window_targets)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("device")
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for precision in ("fp32", "bf16"):
        engine = load_cell(make_job(given.device, given.small, precision))
        for name, (ours, plain) in list_work(engine, given.small).items():
            row = {"precision": precision} | compare(name, given.device, ours, plain, 3)
            limits = {"fp32": ("largest", TOLERANCE), "bf16": ("median", BFLOAT_MEDIAN)}
            which, limit = limits[precision]
            row["same"] = row[f"{which}_difference"] <= limit
            found.append(row)
            print(
                f"{precision} {name}: {row['scored']} tokens, {row['times_faster']:.2f} times as "
                f"fast as a plain pass, log-likelihoods within {row['largest_difference']:.2g}, "
                f"half of them within {row['median_difference']:.2g}"
                + ("" if row["same"] else ": NOT THE SAME")
            )
        engine.close()
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(not all(row["same"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
