"""Figures measured on a real trained model and on published data.

They lie in the folder that HARNESS_REAL_DATA names, whose README says where they come from.
"""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engines.base import Engine
from harness.metrics import footprint, perplexity
from harness.records.record import Measured
from harness.suite.data_source import DataSource
from harness.tasks import mmlu
from tests.support.cells_in_process import load, make_context

ROOT = Path(os.environ.get("HARNESS_REAL_DATA") or "/nowhere").resolve()
pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("HARNESS_REAL_DATA"),
        reason="HARNESS_REAL_DATA names no folder with models/ and data/",
    ),
    # Of every layer at every call: the CPU's int8 kernel takes float32 and says that it casts.
    pytest.mark.filterwarnings("ignore:MatMul8bitLt. inputs will be cast:UserWarning"),
]
DATA = ROOT / "data"
STORIES = ROOT / "models" / "stories260K-hf"


@pytest.fixture(scope="module")
def cells() -> dict[str, Engine]:
    return {precision: load(STORIES, precision) for precision in ("fp32", "int8", "nf4", "fp4")}


def measure_text(cell: Engine, path: Path, **given: Any) -> Measured:
    options = perplexity.METRIC.options(text=DataSource(path=str(path)), **given)
    return perplexity.measure(cell, options, make_context(Path("/")))


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("fp32", 2.4645), ("int8", 2.4712), ("nf4", 2.6438), ("fp4", 2.8955)],
)
def test_the_perplexity_of_a_story(
    cells: dict[str, Engine], precision: str, expected: float
) -> None:
    measured = measure_text(cells[precision], DATA / "story.txt", context=512)
    assert measured.protocol["text_tokens"] == 222
    assert measured.values["tokens"].value == 221
    assert measured.values["ppl"].value == pytest.approx(expected, abs=5e-5)


def test_the_perplexity_of_wikitext(cells: dict[str, Engine], tmp_path: Path) -> None:
    """Windows that share one token, so that every token but the first is scored once."""
    content = (DATA / "wikitext2" / "wiki.test.raw").read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith("173c87a5")
    (tmp_path / "wiki.txt").write_text(content.decode()[:60_000], encoding="utf-8")
    measured = measure_text(cells["fp32"], tmp_path / "wiki.txt", context=512, stride=511)
    assert measured.values["ppl"].value == pytest.approx(157.4, abs=0.05)


@pytest.mark.parametrize(
    ("precision", "held"),
    [("fp32", 1_040_160), ("int8", 360_480), ("nf4", 247_200), ("fp4", 247_200)],
)
def test_the_bytes_of_its_weights(cells: dict[str, Engine], precision: str, held: int) -> None:
    """The README's figures count the 32 bytes of rotary frequencies, and no constants."""
    measured = footprint.measure(
        cells[precision], footprint.METRIC.options(), make_context(Path("/"))
    )
    values = {name: value.value for name, value in measured.values.items()}
    assert values["weights_bytes"] + values["buffers_bytes"] == held
    assert values["buffers_bytes"] == 32
    assert values["parameters"] == 260_032
    assert (values["constants_bytes"] == 0) is (precision == "fp32")


def rows(split: str, subject: str) -> list[list[str]]:
    with open(
        DATA / "mmlu" / split / f"{subject}_{split}.csv", newline="", encoding="utf-8"
    ) as file:
        return list(csv.reader(file))


def test_mmlu_is_read_as_python_s_csv_module_reads_it() -> None:
    options = mmlu.Options(data=DataSource(path=str(DATA / "mmlu")))
    dev, test = (
        mmlu.load_subjects(options.data, make_context(Path("/")), split)
        for split in ("dev", "test")
    )
    assert len(dev) == len(test) == 12
    for split, subjects in (("dev", dev), ("test", test)):
        for subject, found in subjects.items():
            questions = [mmlu.make_question(row) for row in found]
            assert [[q.asked, *q.choices, "ABCD"[q.answer]] for q in questions] == [
                [cells[0].strip(), *cells[1:]] for cells in rows(split, subject)
            ]
    assert all(len(found) == 5 for found in dev.values())
    assert sum(len(found) for found in test.values()) == 2681


def log_likelihoods(cell: Engine, prompt: str) -> list[float]:
    tokenizer: Any = cell.require_tokenizer()
    ids = tokenizer(prompt)["input_ids"]
    found = []
    for letter in "ABCD":
        whole = tokenizer(f"{prompt} {letter}")["input_ids"]
        with torch.no_grad():
            scores = cell.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        found.append(sum(float(scores[i - 1, whole[i]]) for i in range(len(ids), len(whole))))
    return found


@pytest.mark.parametrize("shots", [0, 1])
def test_subjects_of_mmlu_are_scored(cells: dict[str, Engine], shots: int) -> None:
    """A model this small answers at chance: this is about which answers, not how many are right."""
    names = ("abstract_algebra", "global_facts")
    source = DataSource(path=str(DATA / "mmlu"))
    options = mmlu.Options(data=source, shots=shots, subjects=names, limit=30)
    cell = cells["fp32"]
    measured = mmlu.TASK.measure(cell, options, make_context(Path("/")))
    questions = mmlu.load_questions(options, make_context(Path("/")))
    assert measured.items["subjects"] == {"abstract_algebra": 30, "global_facts": 30}
    tokenizer: Any = cell.require_tokenizer()
    lengths = [len(tokenizer(f"{q.prompt} A")["input_ids"]) - 1 for q in questions]
    too_long = [length > 512 for length in lengths]
    assert not all(too_long)
    assert any(too_long) is (shots == 1)
    assert measured.values["too_long"].value == sum(too_long)
    assert [c == "-" for c in measured.items["chosen"]] == too_long
    for i in range(0, len(questions), 7):
        if not too_long[i] and measured.items["tied"][i] == "0":
            found = log_likelihoods(cell, questions[i].prompt)
            assert measured.items["chosen"][i] == "ABCD"[found.index(max(found))]
