"""serve: a measurement runs where the engine offers what it needs, and is skipped where not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from harness.catalog import load_measurement
from harness.engines.base import WindowScores
from harness.errors import InputError
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


def test_a_mistake_is_one_sentence_and_a_bug_brings_its_traceback() -> None:
    def make_mistake() -> None:
        raise InputError("there is no such text")

    assert guard(make_mistake) == Failure("failed", "there is no such text")
    bug = guard(lambda: [][0])
    assert bug.reason == "IndexError: list index out of range"
    assert "Traceback" in bug.traceback
