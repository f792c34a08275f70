"""serve: a measurement runs where the engine offers what it needs, and is skipped where not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import harness.worker.serve as serve_module
from harness.catalog import load_measurement
from harness.engines.base import WindowScores
from harness.errors import InputError
from harness.run.process import call_in_worker
from harness.suite.model_sources import CellJob
from harness.worker.messages import Failure, MeasureRequest, Progress
from harness.worker.serve import guard, measure
from tests.support.cells_in_process import make_job, write_checkpoint

WORD = "ten cats\n"


@dataclass
class CountingEngine:
    """A small engine that only scores windows: token by token, by how often it came before."""

    job: CellJob
    tokenizer: Any
    vocabulary: int = 264
    max_context: int | None = None
    device: str = "cpu"
    compute_dtype: str = "float32"

    def require_tokenizer(self) -> Any:
        return self.tokenizer

    def score_windows(self, rows: torch.Tensor, scored: int) -> WindowScores:
        nll = torch.zeros(len(rows), scored, dtype=torch.float64)
        for i, row in enumerate(rows.tolist()):
            for j in range(scored):
                end = len(row) - scored + j
                seen = row[:end].count(row[end])
                nll[i, j] = -torch.log(torch.tensor((seen + 1) / (end + self.vocabulary)))
        return WindowScores(nll)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_checkpoint(tmp_path_factory.mktemp("serve") / "model")
    (folder / "text.txt").write_text(WORD * 8)
    job = make_job(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return CountingEngine(CellJob(**{**vars(job), "suite_folder": folder}), tokenizer)


def ask(engine: Any, measurement: str, sent: list[Any] | None = None, **options: Any) -> Any:
    given = load_measurement(measurement).options.model_validate(options)
    send = ([] if sent is None else sent).append
    return guard(lambda: measure(engine, MeasureRequest(measurement, given), send))


def test_an_engine_that_scores_windows_has_a_perplexity(engine: Any) -> None:
    sent: list[Any] = []
    text = {"path": "text.txt"}
    measured = ask(engine, "perplexity", sent, text=text, protocol="disjoint", context=32)
    assert not isinstance(measured, Failure), measured
    assert 1 < measured.values["ppl"].value < engine.vocabulary
    assert measured.validity.status == "ok"
    assert isinstance(sent[-1], Progress)
    assert sent[-1].done == sent[-1].total


@pytest.mark.parametrize(
    ("measurement", "options", "reason"),
    [
        ("footprint", {}, "footprint needs counts, which the engine transformers does not offer"),
        (
            "throughput",
            {},
            "throughput needs count_work, meter, open_generator, which the engine "
            "transformers does not offer",
        ),
    ],
)
def test_what_an_engine_lacks_skips_the_measurement_with_that_reason(
    engine: Any, measurement: str, options: dict[str, Any], reason: str
) -> None:
    assert ask(engine, measurement, **options) == Failure("skipped", reason)


@pytest.mark.parametrize(("device", "seen"), [("cpu", 0), ("cuda:1", 2)])
def test_a_cpu_cell_sees_no_gpu(device: str, seen: int) -> None:
    """Two boards by NVML, and a driver that must not be asked."""
    assert call_in_worker(count_gpus_in_a_cell, device) == (seen > 0, seen)


def count_gpus_in_a_cell(device: str) -> tuple[bool, int]:
    """Serve a cell whose engine looks for GPUs, as bitsandbytes does when it is imported."""
    torch.cuda._is_compiled = lambda: True  # type: ignore[assignment]
    torch.cuda._raw_device_count_nvml = lambda: 2  # type: ignore[assignment]
    torch._C._cuda_getDeviceCount = lambda: 2  # type: ignore[attr-defined]
    found: list[Any] = []

    def look(_: CellJob) -> None:
        found.append((torch.cuda.is_available(), torch.cuda.device_count()))
        raise InputError("no model")

    serve_module.load_engine = lambda _: look  # type: ignore[assignment]
    ours, theirs = Pipe()
    job: Any = SimpleNamespace(device=device, online=True, precision=SimpleNamespace(engine=""))
    serve_module.serve(theirs, job, os.devnull)
    assert ours.recv() == Failure("failed", "no model")
    return found[0]


def test_a_mistake_is_one_sentence_and_a_bug_brings_its_traceback() -> None:
    def make_mistake() -> None:
        raise InputError("there is no such text")

    assert guard(make_mistake) == Failure("failed", "there is no such text")
    bug = guard(lambda: [][0])
    assert bug.reason == "IndexError: list index out of range"
    assert "Traceback" in bug.traceback
