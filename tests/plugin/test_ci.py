"""A suite under GitHub Actions: the job's summary, the annotations in its log, the JUnit report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.records.run_file import Run
from harness.report.junit import list_properties
from tests.report.test_github import Command, parse
from tests.report.test_markdown import Page, render, text_of
from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import FAST_THROUGHPUT, Outcome, Project, find_records, read_junit

pytestmark = pytest.mark.e2e

# The first limit breaks, the second cannot be decided by one process, the third holds.
SUITE = f"""name: s
reference: fp32
models: [{{name: a_model, source: ../model}}]
precisions: [fp32, nf4]
measure:
  footprint:
  perplexity: {{text: ../text.txt, context: 32}}
  {FAST_THROUGHPUT}
limits:
  - {{metric: perplexity.ratio, max: 0.5}}
  - {{metric: "throughput.decode_speedup[1]", min: 0.5}}
  - {{metric: footprint.size_ratio, max: 1}}
"""
LIMITS = 1 + SUITE.splitlines().index("limits:")


@dataclass(frozen=True)
class Job:
    """What a step of a workflow left behind."""

    outcome: Outcome
    run: Run
    run_file: str
    summary: str
    cases: dict[str, dict[str, Any]]

    @property
    def page(self) -> Page:
        return render(self.summary)

    @property
    def commands(self) -> list[Command]:
        return list_commands(self.outcome)


def list_commands(outcome: Outcome) -> list[Command]:
    """The workflow commands in a log, as GitHub's runner finds them: at the start of a line."""
    return [parse(line) for line in outcome.text.splitlines() if line.startswith("::")]


def make_project(folder: Path) -> Project:
    project = Project(
        folder,
        variables={
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_WORKSPACE": str(folder),
        },
    )
    (folder / "summary.md").write_text("before\n\n", encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    project = make_project(tmp_path_factory.mktemp("ci"))
    write_checkpoint(project.folder / "model", num_hidden_layers=1)
    project.write("suites/s.yaml", SUITE)
    outcome = project.run("suites", "--junit-xml=junit.xml")
    return Job(
        outcome,
        project.last_run("s"),
        project.run_paths("s")[-1].name,
        (project.folder / "summary.md").read_text(encoding="utf-8"),
        read_junit(project.folder / "junit.xml"),
    )


def test_the_summary_is_appended_with_the_matrix_and_what_does_not_pass(job: Job) -> None:
    assert job.summary.startswith("before\n\n## precision-harness: s\n")
    page = job.page
    assert {row[0] for table in page.tables for row in table[1:]} == {"fp32", "nf4"}
    record = find_records(job.run)["a_model[nf4]::perplexity"]
    ratio = record.paired["ratio"].value
    assert any(f"{ratio:.4f}" in cell for row in page.tables[0] for cell in row)
    [failed] = page.lines_below("Failed")
    assert failed == record.verdicts[0].text
    [undecided] = page.lines_below("Undecided")
    assert "throughput.decode_speedup[1]" in undecided
    assert "1 FAIL, 1 INCONCLUSIVE, 1 PASS" in text_of(page.html)
    assert f"run file: {job.run_file}" in text_of(page.html)
    assert str(Path.home()) not in job.summary or str(Path.home()) == "/"


def test_the_log_annotates_the_limits_in_the_suite(job: Job) -> None:
    error, warning = job.commands
    assert (error.kind, warning.kind) == ("error", "warning")
    assert error.properties == {
        "file": "suites/s.yaml",
        "line": str(LIMITS + 1),
        "title": "a_model[nf4] perplexity.ratio: FAIL",
    }
    assert error.message == find_records(job.run)["a_model[nf4]::perplexity"].verdicts[0].text
    assert (warning.properties["file"], warning.properties["line"]) == (
        "suites/s.yaml",
        str(LIMITS + 2),
    )


def test_the_junit_report_carries_values_verdicts_and_validity(job: Job) -> None:
    records = find_records(job.run)
    assert set(job.cases) == set(records)
    for name, record in records.items():
        assert job.cases[name] == {key: str(value) for key, value in list_properties(record)}
        assert job.cases[name]["validity"] in ("ok", "flagged")
        assert "None" not in job.cases[name].values()
    verdicts = {
        key: value
        for case in job.cases.values()
        for key, value in case.items()
        if key.startswith("verdict.")
    }
    assert verdicts == {
        "verdict.perplexity.ratio.limit": "FAIL",
        "verdict.throughput.decode_speedup[1].limit": "INCONCLUSIVE",
        "verdict.footprint.size_ratio.limit": "PASS",
    }


def test_a_skip_where_all_is_required_is_an_error_also_without_a_summary(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.variables["GITHUB_STEP_SUMMARY"] = str(tmp_path / "no" / "summary.md")
    project.write(
        "suites/s.yaml",
        "name: s\nmodels: [{name: m, source: nobody/nothing}]\nprecisions: [fp32]\n"
        "measure: {footprint: }\n",
    )
    outcome = project.run("suites", "--require-all")
    assert outcome.code == pytest.ExitCode.TESTS_FAILED, outcome.text
    [command] = list_commands(outcome)
    assert command.kind == "error"
    assert command.properties["title"] == "m[fp32] footprint: skipped"
    assert "\nwarning: no job summary" in outcome.text
    assert not outcome.shows_traceback


def test_what_is_undecided_fails_where_that_is_asked_for_and_not_where_all_is_required(
    tmp_path: Path,
) -> None:
    """One process decides no limit on a speed, and yet nothing is missing."""
    project = make_project(tmp_path)
    write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    project.write(
        "suites/s.yaml",
        "name: s\nmodels: [{name: m, source: ../model}]\nprecisions: [fp32]\n"
        f"measure:\n  {FAST_THROUGHPUT}\n"
        'limits: [{metric: "throughput.decode_tokens_per_s[1]", min: 0.001}]\n',
    )
    complete = project.run("suites", "--require-all")
    assert complete.code == pytest.ExitCode.OK, complete.text
    assert [command.kind for command in list_commands(complete)] == ["warning"]
    strict = project.run("suites", "--on-inconclusive", "fail")
    assert strict.code == pytest.ExitCode.TESTS_FAILED, strict.text
    assert [command.kind for command in list_commands(strict)] == ["error"]


def test_this_project_s_own_ci_does_not_leak_into_the_projects_that_its_tests_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert not [name for name in Project(tmp_path).environment if name.startswith("GITHUB_")]
