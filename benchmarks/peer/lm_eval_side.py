"""lm-evaluation-harness's side: its own tasks on local files, through `simple_evaluate`.

    python -m peer.lm_eval_side TASK MODEL ITEMS BATCH_SIZE OUT SHOTS [SUBJECT …]

As a process it is what its command line does, with a clock and a memory reading around
``loglikelihood`` and ``loglikelihood_rolling``.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

# Its own task files, of which only the place of the data is changed.
_SOURCES = {
    "mmlu": "mmlu/default/_default_template_yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc": "arc/arc_easy.yaml",
    "perplexity": "wikitext/wikitext.yaml",
}


def make_task(name: str, items: Path, subject: str = "", shots: int = 0) -> dict[str, Any]:
    """A task's configuration, reading what `peer.items` wrote into ``items``."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    task = load_yaml(Path(lm_eval.tasks.__file__).parent / _SOURCES[name])
    for key in ("dataset_name", "training_split", "validation_split", "test_split", "tag"):
        task.pop(key, None)
    files = {"test": str(items / f"{name}.jsonl")}
    if name == "mmlu":
        title = subject.replace("_", " ")
        task["description"] = (
            f"The following are multiple choice questions (with answers) about {title}.\n\n"
        )
        files = {s: str(items / f"mmlu_{subject}_{s}.jsonl") for s in ("dev", "test")}
    if name == "perplexity":
        files = {"test": str(items / "wiki.jsonl")}
        task["doc_to_target"] = _whole_page  # the text as it is: ours is not detokenised either
    return {
        **task,
        "task": "_".join(filter(None, ("peer", name, subject))),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "num_fewshot": shots,
    }


def evaluate(model: Any, tasks: list[dict[str, Any]], **given: Any) -> dict[str, Any]:
    """`simple_evaluate` with the command line's defaults."""
    import lm_eval

    results = lm_eval.simple_evaluate(model=model, tasks=tasks, **given)
    assert results is not None
    return dict(results)


def find_numbers(results: dict[str, Any], task: str) -> dict[str, float]:
    """``{"acc": 0.3}`` and the like, without the names of filters and standard errors.

    Of several subjects the mean over all items.
    """
    sums: dict[str, float] = {}
    items = {
        name: counts["effective"]
        for name, counts in results["n-samples"].items()
        if name.startswith(f"peer_{task}")
    }
    for name, count in items.items():
        for key, value in results["results"][name].items():
            number, _, kept = key.partition(",")
            if kept == "none" and "stderr" not in key:
                sums[number] = sums.get(number, 0.0) + value * count
    return {number: total / sum(items.values()) for number, total in sums.items()}


def _whole_page(doc: dict[str, str]) -> str:
    return doc["page"]


def main() -> None:
    task, model, items, batch_size, out, shots, *subjects = sys.argv[1:]
    from lm_eval.models.huggingface import HFLM

    from peer.memory import read_bytes, reset_peak

    seen: dict[str, Any] = {"score_s": 0.0}

    def watch(method: Any) -> Any:
        @functools.wraps(method)
        def watched(*given: Any, **named: Any) -> Any:
            seen["loaded_bytes"] = read_bytes("VmRSS")
            reset_peak()
            start = time.perf_counter()
            answer = method(*given, **named)
            seen["score_s"] += time.perf_counter() - start
            seen["peak_bytes"] = read_bytes("VmHWM")
            return answer

        return watched

    kind: Any = HFLM
    for name in ("loglikelihood", "loglikelihood_rolling"):
        setattr(kind, name, watch(getattr(kind, name)))
    results = evaluate(
        "hf",
        [make_task(task, Path(items), subject, int(shots)) for subject in subjects or [""]],
        model_args={"pretrained": model, "dtype": "float32"},
        batch_size=int(batch_size),
        device="cpu",
    )
    Path(out).write_text(json.dumps({**seen, "numbers": find_numbers(results, task)}))


if __name__ == "__main__":
    main()
