"""Suites with a real trained model on real texts and questions, run as a user runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.records.record import Record
from tests.support.projects import Outcome, Project, find_records

REAL = Path(os.environ.get("HARNESS_REAL_DATA", ""))
pytestmark = pytest.mark.skipif(
    "HARNESS_REAL_DATA" not in os.environ,
    reason="HARNESS_REAL_DATA names no folder with the real model and data",
)
PRECISIONS = ("fp32", "int8", "nf4", "fp4")
# One window, every token but BOS scored: as the figures of the data's README were measured.
STORY = {"fp32": 2.4645, "int8": 2.4712, "nf4": 2.6438, "fp4": 2.8955}
SUITE = """name: {name}
reference: fp32
models: [{{name: stories, source: {model}}}]
precisions: [fp32, int8, nf4, fp4]
measure:
{measure}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("real"))
    model = REAL / "models/stories260K-hf"
    story = f"  perplexity: {{text: {REAL}/data/story.txt, protocol: disjoint, context: 222}}\n"
    quiz = f"  mmlu: {{data: {REAL}/data/mmlu, shots: 0, limit: 20, subjects: [marketing]}}\n"
    project.write(
        "suites/story.yaml", SUITE.format(name="story", model=model, measure=story + quiz)
    )
    wiki = (REAL / "data/wikitext2/wiki.test.raw").read_text(encoding="utf-8")
    project.write("wiki.txt", wiki[:20_000])
    text = "  perplexity: {text: ../wiki.txt, context: 512, stride: 256}\n"
    project.write("suites/wiki.yaml", SUITE.format(name="wiki", model=model, measure=text))
    return project


@pytest.fixture(scope="module")
def outcome(project: Project) -> Outcome:
    return project.run("suites", "-v")


def records(project: Project, suite: str) -> dict[str, Record]:
    return find_records(project.last_run(suite))


def test_every_measurement_passes(outcome: Outcome) -> None:
    assert outcome.code == pytest.ExitCode.OK, outcome.text
    assert set(outcome.results.values()) == {"PASSED"}
    assert len(outcome.results) == 3 * len(PRECISIONS)


@pytest.mark.usefixtures("outcome")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_story_s_perplexity_is_met_to_four_digits(project: Project, precision: str) -> None:
    record = records(project, "story")[f"stories[{precision}]::perplexity"]
    assert record.values["tokens"].value == 221
    assert record.values["ppl"].value == pytest.approx(STORY[precision], abs=5e-5)


@pytest.mark.usefixtures("outcome")
def test_on_wikipedia_every_precision_stands_beside_the_reference(project: Project) -> None:
    found = records(project, "wiki")
    reference = found["stories[fp32]::perplexity"].values["ppl"].value
    assert reference is not None
    assert reference > 100  # it only knows stories
    for precision in PRECISIONS[1:]:
        record = found[f"stories[{precision}]::perplexity"]
        own, ratio = record.values["ppl"].value, record.paired["ratio"].value
        assert own is not None
        assert ratio == pytest.approx(own / reference)


@pytest.mark.usefixtures("outcome")
def test_mmlu_is_answered_item_by_item(project: Project) -> None:
    found = records(project, "story")
    for precision in PRECISIONS:
        record = found[f"stories[{precision}]::mmlu"]
        assert record.values["items"].value == 20
        assert len(record.items["right"]) == 20
        assert record.items["right"].count("1") / 20 == record.values["acc"].value
