"""--against and --bless in real runs: thresholds, an earlier run, a revision, and none."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.records.run_file import Run
from harness.verdicts.thresholds import path_of, read_thresholds, write_thresholds
from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import Outcome, Project

pytestmark = pytest.mark.e2e

SUITE = """name: s
reference: fp32
models: [{name: m, source: ../model}]
precisions: [fp32, bf16]
measure:
  footprint: {}
  perplexity: {text: ../text.txt, context: 32, stride: 16}
"""


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@dataclass(frozen=True)
class Blessed:
    project: Project
    outcome: Outcome
    thresholds: Path
    run: Run


@pytest.fixture(scope="module")
def blessed(tmp_path_factory: pytest.TempPathFactory) -> Blessed:
    """A repository whose first run was blessed and committed."""
    project = Project(tmp_path_factory.mktemp("baseline"))
    write_checkpoint(project.folder / "model", num_hidden_layers=1)
    project.write("suites/s.yaml", SUITE)
    project.write(".gitignore", "*\n!suites\n!*.yaml\n!results\n!thresholds\n!s\n!cpu-*.json\n")
    git(project.folder, "init", "-q")
    git(project.folder, "add", "suites")
    git(project.folder, "commit", "-q", "-m", "suite")
    outcome = project.run("--bless", "--reason", "the first numbers")
    [path] = (project.folder / "results/thresholds/s").glob("*.json")
    git(project.folder, "add", "results/thresholds")
    git(project.folder, "commit", "-q", "-m", "bless")
    return Blessed(project, outcome, path, project.last_run("s"))


def test_a_run_blesses_itself_on_request(blessed: Blessed) -> None:
    assert blessed.outcome.code == 0, blessed.outcome.text
    assert "m[bf16] perplexity.ppl: new, " in blessed.outcome.text
    stored = read_thresholds(blessed.thresholds)
    assert set(stored.cells) == {"m[fp32]", "m[bf16]"}
    assert stored.cells["m[bf16]"]["perplexity"].reason == "the first numbers"
    assert stored.cells["m[bf16]"]["perplexity"].commit == blessed.run.run.git_sha
    slug = blessed.thresholds.stem
    assert path_of(blessed.project.folder, "s", slug) == blessed.thresholds


def test_later_runs_are_judged_by_the_committed_thresholds(blessed: Blessed) -> None:
    outcome = blessed.project.run("-v")
    assert outcome.code == 0, outcome.text
    assert f"judged against results/thresholds/s/{blessed.thresholds.name}" in outcome.text
    records = blessed.project.last_run("s").records
    found = {(v.metric, v.verdict, v.against) for r in records for v in r.verdicts}
    assert found == {
        ("footprint.total_bytes", "PASS", "threshold"),
        ("perplexity.ppl", "PASS", "threshold"),
    }


def test_a_worse_number_fails_its_item_and_none_asks_for_none(blessed: Blessed) -> None:
    stored = read_thresholds(blessed.thresholds)
    data = stored.model_dump(by_alias=True)
    value = data["cells"]["m[bf16]"]["perplexity"]["values"]["ppl"]
    value["value"] *= 0.9
    value["margin"] *= 0.9
    data["cells"]["m[bf16]"]["perplexity"]["items"] = "0" * 16
    tightened = blessed.project.folder / "tightened.json"
    write_thresholds(type(stored).model_validate(data), tightened)
    outcome = blessed.project.run("-v", "--against", "tightened.json")
    failed = [node for node, result in outcome.results.items() if result == "FAILED"]
    assert failed == ["suites/s.yaml::m[bf16]::perplexity"], outcome.text
    assert "perplexity.ppl is" in outcome.failures["m[bf16]::perplexity"]
    assert "(+11.11 % from 822, blessed at" in outcome.failures["m[bf16]::perplexity"]
    outcome = blessed.project.run("--against", "none", "--precision", "bf16")
    assert outcome.code == 0
    assert "judged against" not in outcome.text


def test_other_weights_and_a_renamed_precision_are_judged_and_named(blessed: Blessed) -> None:
    """What a maintainer changes is what the guard watches."""
    project = blessed.project
    suite, model = project.folder / "suites/s.yaml", project.folder / "model"
    kept = project.folder / "kept"
    model.rename(kept)
    try:
        write_checkpoint(model, num_hidden_layers=1, initializer_range=0.5)  # surer, and wrong
        other = project.run("-v", "--precision", "bf16")
    finally:
        shutil.rmtree(model)
        kept.rename(model)
    assert other.results["suites/s.yaml::m[bf16]::perplexity"] == "FAILED", other.text
    assert "; since the blessing: weights" in other.failures["m[bf16]::perplexity"]
    suite.write_text(SUITE.replace("[fp32, bf16]", "[fp32, {name: bf16, use: fp32}]"))
    try:
        renamed = project.run("-v", "--precision", "bf16")
    finally:
        suite.write_text(SUITE)
    assert renamed.results["suites/s.yaml::m[bf16]::footprint"] == "FAILED", renamed.text
    assert "precision.use bf16 → fp32" in renamed.failures["m[bf16]::footprint"]


def test_another_question_is_open_until_it_is_allowed(blessed: Blessed) -> None:
    suite = blessed.project.folder / "suites/s.yaml"
    shorter = SUITE.replace("context: 32, stride: 16", "context: 24, stride: 12")
    what = ("-v", "--precision", "bf16", "--measure", "perplexity")
    try:
        suite.write_text(shorter)
        refused = blessed.project.run(*what)
        strict = blessed.project.run(*what, "--require-all")
        allowed = blessed.project.run(*what, "--allow", "protocol")
        suite.write_text(f"allow: [protocol.context, protocol.stride]\n{shorter}")
        by_suite = blessed.project.run(*what)
    finally:
        suite.write_text(SUITE)
    assert "protocol.context (32 → 24), protocol.stride (16 → 12); ppl was" in refused.text
    assert (refused.code, strict.code) == (0, pytest.ExitCode.TESTS_FAILED)
    for outcome in (allowed, by_suite):
        assert "blessed at" in outcome.text
        assert "protocol.context (32 → 24) was allowed to differ" in outcome.text


@pytest.mark.parametrize("against", ["HEAD", "results/runs/s"])
def test_a_revision_or_an_earlier_run_may_be_the_measure(blessed: Blessed, against: str) -> None:
    outcome = blessed.project.run("--against", against, "--precision", "fp32")
    assert outcome.code == 0, outcome.text
    assert f"judged against {against}" in outcome.text
    kind = "threshold" if against == "HEAD" else "run"
    run = blessed.project.last_run("s")
    assert {v.against for r in run.records for v in r.verdicts} == {kind}


def test_a_run_of_uncommitted_changes_is_not_blessed(blessed: Blessed) -> None:
    suite = blessed.project.folder / "suites/s.yaml"
    before = blessed.thresholds.read_bytes()
    suite.write_text(SUITE + "# changed\n")
    try:
        outcome = blessed.project.run("--bless", "--reason", "x", "--measure", "footprint")
    finally:
        suite.write_text(SUITE)
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert "--bless: the tree has uncommitted changes: commit first" in outcome.text
    assert "m[fp32]" not in outcome.text  # said before anything is measured
    assert blessed.thresholds.read_bytes() == before


def test_what_is_blessed_and_gone_fails_where_all_is_required(blessed: Blessed) -> None:
    suite = blessed.project.folder / "suites/s.yaml"
    suite.write_text(SUITE.replace("  footprint: {}\n", ""))
    try:
        strict = blessed.project.run("--require-all")
        part = blessed.project.run("--require-all", "--precision", "bf16")
    finally:
        suite.write_text(SUITE)
    assert strict.code == pytest.ExitCode.TESTS_FAILED
    assert "2 blessed measurements were not made: m[bf16] footprint, m[fp32]" in strict.text
    assert part.code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bless",), "--bless needs --reason"),
        (("--reason", "x"), "ERROR: --reason says why --bless makes new thresholds: give both"),
        (("--against", "nosuch"), "ERROR: --against: 'nosuch' is neither a run file or folder"),
    ],
)
def test_wrong_options_are_answered_at_once(
    blessed: Blessed, options: tuple[str, ...], message: str
) -> None:
    outcome = blessed.project.run(*options)
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert message in outcome.text
    assert "collected" not in outcome.text
    assert not outcome.shows_traceback


def test_damaged_thresholds_stop_the_run_by_name(blessed: Blessed) -> None:
    before = blessed.thresholds.read_bytes()
    blessed.thresholds.write_bytes(before[:-30])
    try:
        outcome = blessed.project.run()
    finally:
        blessed.thresholds.write_bytes(before)
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert f"{blessed.thresholds.name}: not a readable thresholds file" in outcome.text
