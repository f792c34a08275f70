"""Runs that end early, fail in a model's own code, lack their reference, or use a built wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.cells_in_process import write_checkpoint
from tests.support.misbehaving_models import TRIGGER, write_misbehaving
from tests.support.projects import FAST_THROUGHPUT, ROOT, Project, find_records

pytestmark = pytest.mark.e2e

SUITE = f"""name: s
reference: fp32
models: [{{name: m, source: ../model}}]
precisions: [fp32, bf16]
measure:
  perplexity: {{text: ../text.txt, context: 32}}
  {FAST_THROUGHPUT}
limits: [{{precision: bf16, metric: perplexity.ratio, max: 0.5}}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    return project


def test_exit_first_stops_after_the_broken_limit_and_says_interrupted(project: Project) -> None:
    """In pytest's own process, and with pytest-benchmark disabled."""
    project.write("suites/s.yaml", SUITE)
    project.write("suites/t.yaml", SUITE.replace("name: s", "name: t"))
    outcome = project.run("-x", "-v", "--no-isolate", "--benchmark-disable")
    assert outcome.results == {
        "suites/s.yaml::m[fp32]::perplexity": "PASSED",
        "suites/s.yaml::m[fp32]::throughput": "PASSED",
        "suites/s.yaml::m[bf16]::perplexity": "FAILED",
    }, outcome.text
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    run = project.last_run("s")
    assert run.run.interrupted is True
    assert len(run.records) == 3
    assert "decode_tokens_per_s[1]" in find_records(run)["m[fp32]::throughput"].values
    assert "benchmark 'm decode" not in outcome.text
    assert not (project.folder / "results/runs/t").exists()


def test_several_processes_without_any_are_refused_once_before_anything_loads(
    project: Project,
) -> None:
    project.write("suites/s.yaml", SUITE.replace("throughput: {", "throughput: {processes: 3, "))
    outcome = project.run("--no-isolate")
    assert outcome.code == pytest.ExitCode.USAGE_ERROR, outcome.text
    message = "`processes: 3` of throughput does not work with --no-isolate: leave one of them out"
    assert outcome.text.count(message) == 1
    assert "suites/s.yaml:" in outcome.text
    assert not (project.folder / "results").exists()
    # A measurement that was not chosen does not matter.
    outcome = project.run("--no-isolate", "--measure", "perplexity")
    assert outcome.code == pytest.ExitCode.TESTS_FAILED, outcome.text  # by its limit


def test_full_trace_shows_where_a_bug_is_and_results_go_to_the_folder_given(
    project: Project, tmp_path: Path
) -> None:
    write_misbehaving(tmp_path / "misbehaving", tmp_path / "model", "throw", tmp_path / "none")
    project.write(
        "anywhere/one.yml",
        "name: one\nmodels: [{name: m, source: ../misbehaving, trust_remote_code: true}]\n"
        f"precisions: [fp32]\nmeasure: {{perplexity: {{text: ../text.txt, context: {TRIGGER}}}}}\n",
    )
    outcome = project.run("anywhere/one.yml", "--full-trace", "--results", "kept/here")
    shown = outcome.failures["m[fp32]::perplexity"]
    assert "RuntimeError: the sky is falling" in shown
    assert "Traceback (most recent call last)" in shown
    assert "Run file: kept/here/one/" in shown
    assert len(list((tmp_path / "kept/here/one").glob("*.json"))) == 1
    assert not (tmp_path / "results").exists()


def test_a_reference_that_broke_leaves_no_limit_unnoticed(project: Project) -> None:
    """fp16 overflows on this model: what was to be compared with it does not pass in silence."""
    folder = project.folder / "model"
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    project.write(
        "suites/s.yaml",
        "name: s\nreference: fp16\nmodels: [{name: m, source: ../model}]\n"
        "precisions: [fp16, fp32]\n"
        "measure: {perplexity: {text: ../text.txt, context: 16}}\n"
        "limits: [{precision: fp32, metric: perplexity.ratio, max: 2}]\n",
    )
    outcome = project.run("suites", "--precision", "fp32")
    assert outcome.code == pytest.ExitCode.TESTS_FAILED, outcome.text
    [text] = outcome.failures.values()
    assert "cannot be judged against max 2: the reference fp16 has no number" in text
    assert "NaN or infinite" in text
    records = find_records(project.last_run("s"))
    assert records["m[fp32]::perplexity"].validity.status == "ok"
    assert records["m[fp16]::perplexity"].validity.status == "invalid"


def test_a_built_wheel_serves_a_repository_with_the_one_line(tmp_path: Path) -> None:
    """Package data included; nothing of this checkout is on the path."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md", "harness"):
        (source / name).symlink_to(ROOT / name)
    # A build writes next to its sources.
    subprocess.run(["cp", "-rL", str(source), str(tmp_path / "copy")], check=True)
    pip = ["-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [sys.executable, *pip, "install", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(tmp_path / "site"), str(tmp_path / "copy")],
        check=True,
        capture_output=True,
        text=True,
    )  # fmt: skip
    site = tmp_path / "site"
    installed = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    assert {"harness/suite.schema.json", "harness/run.schema.json", "harness/py.typed"} <= installed
    world = ROOT / "harness/builtin/tiny-world"
    assert {str(p.relative_to(ROOT)) for p in world.rglob("*") if p.is_file()} <= installed, (
        "the embedded model, its text and its quiz"
    )
    assert not any(name.startswith("tests/") for name in installed)

    project = Project(tmp_path / "mine", variables={"PYTHONPATH": str(site)})
    project.write("pytest.ini", "[pytest]\n")
    project.write(
        "conftest.py", 'pytest_plugins = ["harness.plugin"]\n'
        "def pytest_report_header():\n    import harness\n    return f'from {harness.__file__}'\n"
    )  # fmt: skip
    project.write(
        "suites/mine.yaml",
        "name: mine\nmodels: [{name: w, source: 'builtin:tiny-world'}]\nprecisions: [fp32]\n"
        "measure:\n  footprint:\n"
        "  perplexity: {text: 'builtin:tiny-world/heldout', context: 128}\n",
    )
    outcome = project.run("suites", "-v")
    assert f"from {site}/harness/__init__.py" in outcome.text
    assert outcome.code == 0, outcome.text
    assert len(project.last_run("mine").records) == 2
