"""The end of a run: what is printed last, the page, and pytest-benchmark's tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import FAST_THROUGHPUT, Project

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.e2e

SUITE = f"""name: s
reference: fp32
models: [{{name: m, source: ../model}}]
precisions: [fp32, bf16]
measure:
  footprint:
  {FAST_THROUGHPUT}
limits:
  - {{precision: bf16, metric: footprint.size_ratio, max: 0.6}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("ending"))
    write_checkpoint(project.folder / "model", num_hidden_layers=1)
    project.write("suites/s.yaml", SUITE)
    # A benchmark of the project's own, whose table stays.
    project.write("test_own.py", "def test_own(benchmark):\n    benchmark(int)\n")
    return project


def test_the_answer_comes_before_the_matrix_and_the_page_is_named_last(project: Project) -> None:
    outcome = project.run("--report", "page.html")
    assert outcome.code == 0, outcome.text
    lines = [line for line in outcome.text.splitlines() if line]
    title = next(i for i, line in enumerate(lines) if "precision-harness: s" in line)
    assert lines[title + 1].startswith("m: bf16 is the smallest and the fastest that holds all")
    assert lines[-3].startswith("run file: results/runs/s/")
    assert lines[-2] == "report: page.html"
    assert "3 passed" not in lines[-2]
    page = (project.folder / "page.html").read_text(encoding="utf-8")
    assert "m: bf16 is the smallest and the fastest that holds all its limits." in page
    assert project.run_paths("s")[-1].name in page
    assert str(project.folder) not in page
    assert "benchmark: 1 tests" in outcome.text, "the project's own"
    assert "benchmark 'm decode" not in outcome.text


@pytest.mark.parametrize("option", ["-v", "--benchmark-sort=name"])
def test_our_timings_are_in_pytest_benchmark_s_tables_where_they_are_asked_for(
    project: Project, option: str
) -> None:
    outcome = project.run("suites/s.yaml", option)
    assert "benchmark 'm decode, batch 1': 2 tests" in outcome.text


@pytest.mark.parametrize("path", ["missing/page.html", "suites"])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    project: Project, path: str
) -> None:
    before = project.run_paths("s")
    outcome = project.run("suites/s.yaml", "--report", path)
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert f"--report: expected a file in a folder that exists, found {path}" in outcome.text
    assert project.run_paths("s") == before


def test_without_a_run_there_is_no_page(project: Project, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    outcome = project.run("test_own.py", "--report", str(page))
    assert outcome.code == 0, outcome.text
    assert not page.exists()
