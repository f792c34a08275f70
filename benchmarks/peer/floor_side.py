"""A measurement of ours and its floor in turn, in one process: the same luck hits both.

    python -m peer.floor_side TASK MODEL OPTIONS_JSON PAIRS OUT

`peer.bare` says what the floor is. ``divergence`` is int8's from the same model in float32.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from harness.engines.transformers.engine import TransformersEngine
from harness.records.record import CellFacts, Record
from peer.bare import Distinct, Reference, keep_states, lay_out_prompts, lay_out_text, run_bare
from peer.our_side import Watched, load_model, measure


def time_pairs(
    model: Path, task: str, options: dict[str, Any], pairs: int
) -> dict[str, list[float]]:
    """Seconds of ``ours`` and of the ``floor``, pair by pair; the order turns each time."""
    loaded = load_model(model)
    record = bare_reference = None
    if task == "divergence":
        kept = measure(loaded, task, options).measured
        assert kept is not None
        record = _make_record(kept, task)
        bare_reference = keep_states(loaded.model, lay_out(loaded, options, None))
        loaded.close()
        loaded = load_model(model, "int8")
    found: dict[str, list[float]] = {"ours": [], "floor": []}
    work: Distinct | None = None
    for number in range(pairs):
        if number % 2 and work is not None:
            found["floor"].append(_time_bare(loaded, work, bare_reference))
        seen = measure(loaded, task, options, record)
        found["ours"].append(seen.score_s)
        work = work or lay_out(loaded, options, seen)
        if len(found["floor"]) <= number:
            found["floor"].append(_time_bare(loaded, work, bare_reference))
    return found


def lay_out(loaded: TransformersEngine, options: dict[str, Any], seen: Watched | None) -> Distinct:
    """The tokens that a measurement has to compute."""
    if seen is not None and seen.rows:
        longest = loaded.max_context
        assert longest is not None
        found = lay_out_prompts(seen.rows, {(t.row, t.position) for t in seen.targets}, longest)
        assert seen.cost is not None
        assert len(found.ids) == seen.cost.tokens_unique
        return found
    text = Path(options["text"]).read_text(encoding="utf-8")
    return lay_out_text(loaded.require_tokenizer()(text)["input_ids"], options["context"])


def _time_bare(loaded: TransformersEngine, work: Distinct, reference: Reference | None) -> float:
    start = time.perf_counter()
    run_bare(loaded.model, work, reference)
    return time.perf_counter() - start


def _make_record(measured: Any, measurement: str) -> Record:
    cell = CellFacts(id="peer[fp32]", model="peer", precision="fp32", device="cpu", source="peer")
    return Record(cell=cell, measurement=measurement, **dict(measured))


def main() -> None:
    task, model, options, pairs, out = sys.argv[1:]
    found = time_pairs(Path(model), task, json.loads(options), int(pairs))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
