"""The harness's side inside one process: a task scored with a clock and a memory reading around it.

    python -m peer.our_side TASK MODEL OPTIONS_JSON OUT

Scores exactly what lm-eval's ``loglikelihood`` does: questions in, log-likelihoods out. What a
user's `pytest suite.yaml` takes as a whole is measured from outside, by `peers.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.catalog import load_measurement, load_precision
from harness.descriptions import MeasureContext
from harness.engines.base import Cost, Target, Tokens
from harness.engines.transformers.engine import TransformersEngine
from harness.engines.transformers.loading import load_cell
from harness.records.record import Measured, Record
from harness.scoring import multiple_choice
from harness.scoring.multiple_choice import Scored
from harness.suite.model_sources import CellJob, find_files
from harness.suite.models import ModelSpec, PrecisionSpec

ROOT = Path("/")


@dataclass
class Watched:
    """What one measurement gave, what its scoring took, and what it asked the engine for."""

    measured: Measured | None = None
    scored: list[Scored] = field(default_factory=list)
    rows: Sequence[Tokens] = ()
    targets: Sequence[Target] = ()
    cost: Cost | None = None
    score_s: float = 0.0


def load_model(folder: Path, use: str = "fp32") -> TransformersEngine:
    """A checkpoint at one precision, loaded on the CPU as a cell's process does."""
    model = ModelSpec(name="peer", source=str(folder.resolve()))
    files = find_files(model, ROOT, online=False)
    precision = PrecisionSpec(name=use, use=use, options=load_precision(use).options())
    return load_cell(CellJob(model, precision, files, "cpu", ROOT, online=False))


def measure(
    loaded: Any, task: str, options: dict[str, Any], reference: Record | None = None
) -> Watched:
    """Run a measurement; of a multiple-choice task also keep every option's log-likelihood."""
    module = load_measurement(task)
    seen = Watched()
    context = MeasureContext(
        suite_folder=ROOT, online=False, progress=lambda *_: None, reference=reference
    )
    score_questions, score_targets = multiple_choice.score_questions, loaded.score_targets

    def watch(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        scored, cost = score_questions(*given, **named)
        seen.score_s = time.perf_counter() - start
        seen.scored = scored
        return scored, cost

    def note(rows: Any, targets: Any, *given: Any, **named: Any) -> Any:
        seen.rows, seen.targets = rows, targets
        seen.cost = score_targets(rows, targets, *given, **named)
        return seen.cost

    multiple_choice.score_questions, loaded.score_targets = watch, note
    start = time.perf_counter()
    try:
        seen.measured = module.measure(loaded, module.options(**options), context)
    finally:
        multiple_choice.score_questions = score_questions
        del loaded.score_targets
    if not seen.scored:
        seen.score_s = time.perf_counter() - start  # a text: tokenised within, as lm-eval does
    return seen


def main() -> None:
    task, model, options, out = sys.argv[1:]
    import datasets  # noqa: F401 - lm-eval has it loaded before it scores, too

    from peer.memory import read_bytes, reset_peak

    loaded = load_model(Path(model))
    loaded_bytes = read_bytes("VmRSS")
    reset_peak()
    seen = measure(loaded, task, json.loads(options))
    assert seen.measured is not None
    found = {
        "score_s": seen.score_s,
        "loaded_bytes": loaded_bytes,
        "peak_bytes": read_bytes("VmHWM"),
        "numbers": {name: value.value for name, value in seen.measured.values.items()},
        "items": {k: v for k, v in seen.measured.items.items() if k == "cost"},
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
