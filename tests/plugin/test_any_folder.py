"""Suites that lie anywhere: `harness run` from any folder, and pytest where it guesses the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.run_file import read_run
from tests.support.projects import PLUGIN_LINE, Outcome, Project, finish, read_junit

pytestmark = pytest.mark.e2e

SUITE = """name: x
models: [{name: m, source: "builtin:tiny-world"}]
precisions: [fp32, bf16]
measure: {footprint: , perplexity: {text: "builtin:tiny-world/heldout", context: 8}}
limits: [{precision: bf16, metric: footprint.bits_per_weight, max: 1}]
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A folder without a conftest.py; the suite lies next to it."""
    project = Project(tmp_path_factory.mktemp("any") / "here")
    for name in ("conftest.py", "pytest.ini"):
        (project.folder / name).unlink()
    project.write("../elsewhere/x.yaml", SUITE)
    return project


def harness_run(project: Project, *arguments: str) -> Outcome:
    return finish(project.start("run", *arguments, command=("-m", "harness.cli")))


def test_harness_run_works_from_any_folder_and_exits_as_pytest_does(here: Project) -> None:
    options = ("--measure", "footprint", "-v", "--junitxml", "junit.xml")
    outcome = harness_run(here, "../elsewhere/x.yaml", *options)
    assert outcome.results == {
        "../elsewhere/x.yaml::m[fp32]::footprint": "PASSED",
        "../elsewhere/x.yaml::m[bf16]::footprint": "FAILED",
    }, outcome.text
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    run = here.last_run("x")
    assert run.run.argv[-7:] == ["--rootdir=.", "../elsewhere/x.yaml", *options]
    assert len(run.records) == 2
    assert set(read_junit(here.folder / "junit.xml")) == {
        "m[fp32]::footprint",
        "m[bf16]::footprint",
    }
    again = harness_run(here, "../elsewhere/x.yaml", "--lf", "--collect-only", "-q")
    assert again.node_ids == ["../elsewhere/x.yaml::m[bf16]::footprint"], again.text


def test_no_home_path_of_a_suite_elsewhere_is_in_the_run_file(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = here.folder.parent
    monkeypatch.setenv("HOME", str(home))
    harness_run(here, str(home / "elsewhere/x.yaml"), "--measure", "footprint", "--results", "home")
    [path] = (here.folder / "home/x").glob("*.json")
    text = path.read_text()
    assert str(home) not in text
    run = read_run(path)
    assert run.suite["file"] == "~/elsewhere/x.yaml"
    [verdict] = [verdict for record in run.records for verdict in record.verdicts]
    [limit] = run.suite["limits"]
    assert verdict.position == limit["position"]
    assert limit["position"].startswith("~/elsewhere/x.yaml:5:")


def test_harness_run_takes_node_ids_and_refuses_unknown_names(here: Project) -> None:
    node = "../elsewhere/x.yaml::m[bf16]::perplexity"
    assert harness_run(here, node, "--collect-only", "-q").node_ids == [node]
    wrong = harness_run(here, "../elsewhere/x.yaml", "--precision", "bf17")
    assert wrong.code == pytest.ExitCode.USAGE_ERROR
    assert "unknown precision 'bf17'; did you mean 'bf16'?" in wrong.text


def test_a_root_folder_that_pytest_only_guessed_is_refused_with_what_to_do(here: Project) -> None:
    """The conftest.py next to the suite loads the plugin; no ini file says what the root is."""
    here.write("../elsewhere/conftest.py", PLUGIN_LINE)
    suite = here.folder.parent / "elsewhere/x.yaml"
    outcome = here.run(str(suite), "--precision", "fp32")
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert f"would put results under {here.folder.parent}" in outcome.text
    assert f"harness run {suite}" in outcome.text
    assert not outcome.shows_traceback, outcome.text
    chosen = here.collect("../elsewhere/x.yaml", "--rootdir=.", "--precision", "fp32")
    assert chosen.code == 0, chosen.text
    here.write("../elsewhere/pytest.ini", "[pytest]\n")
    known = here.collect("../elsewhere/x.yaml", "--precision", "fp32")
    assert known.node_ids[0] == "x.yaml::m[fp32]::footprint", known.text
    Path(here.folder.parent / "elsewhere/conftest.py").unlink()
    Path(here.folder.parent / "elsewhere/pytest.ini").unlink()


def test_a_suite_of_another_folder_runs_next_to_a_project_s_own(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.write("suites/own.yaml", SUITE.replace("name: x", "name: own"))
    project.write("../elsewhere/x.yaml", SUITE)
    outcome = project.collect("suites", "../elsewhere/x.yaml", "--measure", "footprint")
    assert outcome.code == 0, outcome.text
    assert outcome.node_ids[::2] == [
        "suites/own.yaml::m[fp32]::footprint",
        "../elsewhere/x.yaml::m[fp32]::footprint",
    ]
