"""How long a cell takes to start once the fork server runs, beside a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cost.row import Cost
from harness.catalog import load_precision
from harness.run.process import CellProcess, call_in_worker
from harness.suite.model_sources import CellJob, find_files
from harness.suite.models import ModelSpec, PrecisionSpec

PRECISIONS = ("fp32", "int8", "nf4")
TARGET_S = 0.3
IMPORTS = (
    "import torch, transformers.modeling_utils\n"
    "from transformers import AutoModelForCausalLM, AutoTokenizer"
)
_BASE = "imports of torch and transformers"


def measure_starts(device: str, rounds: int) -> list[Cost]:
    """The first process, which brings the fork server; then, in turn, each kind of later one.

    'ready' is until a trivial call is answered: what every cell pays before it loads its model.
    'loaded and attested' is until builtin:tiny-world can be measured. On CUDA that holds the making
    of a CUDA context, which no process can be given: no target.
    """
    jobs = {name: make_job(name, device) for name in PRECISIONS}
    first = _time(lambda: call_in_worker(int))
    base, ready = [], []
    loaded: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        base.append(_time(_import_afresh))
        ready.append(_time(lambda: call_in_worker(int)))
        for name, job in jobs.items():
            loaded[name].append(_time_load(job))
    beside = tuple(base)
    target = TARGET_S if device == "cpu" else None

    def row(what: str, ours: list[float], target: float | None) -> Cost:
        return Cost(
            f"start: {what}", _BASE, "s", beside[: len(ours)], tuple(ours), "seconds", target
        )

    return [
        row("the first process, with the fork server", [first], None),
        row("a process is ready", ready, TARGET_S),
        *(row(f"{name}, loaded and attested", seconds, target) for name, seconds in loaded.items()),
    ]


def measure_ready(rounds: int, target_s: float) -> Cost:
    """Each process after the first, until it answers a trivial call."""
    first = _time(lambda: call_in_worker(int))
    later = tuple(_time(lambda: call_in_worker(int)) for _ in range(rounds))
    base = (first,) * rounds
    return Cost("a new cell's process is ready", "the first", "s", base, later, "seconds", target_s)


def make_job(precision: str, device: str) -> CellJob:
    """The job of the embedded model at one precision."""
    model = ModelSpec(name="tiny-world", source="builtin:tiny-world")
    files = find_files(model, Path.cwd(), online=False)
    options = load_precision(precision).options()
    spec = PrecisionSpec(name=precision, use=precision, options=options)
    return CellJob(model, spec, files, device, suite_folder=Path.cwd(), online=False)


def _time_load(job: CellJob) -> float:
    start = time.perf_counter()
    process = CellProcess(job)
    failure = process.load(lambda _: None)
    seconds = time.perf_counter() - start
    process.close()
    if failure is not None:
        raise SystemExit(f"{job.precision.name}: {failure.reason}\n{failure.traceback}")
    return seconds


def _import_afresh() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


def _time(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
