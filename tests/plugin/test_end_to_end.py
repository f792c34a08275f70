"""The whole road in a user's repository: suite, pytest, summary, run file, JUnit, benchmarks."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.records.run_file import Run
from harness.report.junit import list_properties
from harness.verdicts.wording import show_estimate, show_numbers
from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import (
    FAST_THROUGHPUT,
    ROOT,
    SENTENCES,
    Outcome,
    Project,
    find_records,
    read_junit,
)

pytestmark = pytest.mark.e2e

# Order matters: footprint, perplexity and throughput share a process, memory needs its own.
SUITE = f"""name: s
reference: fp32
models: [{{name: m, source: ../model}}]
precisions: [bf16, fp32, nf4]
measure:
  perplexity: {{text: ../text.txt, context: 32}}
  footprint:
  {FAST_THROUGHPUT}
  memory: {{prompt_tokens: 8, new_tokens: 3}}
limits:
  - {{precision: bf16, metric: perplexity.ratio, max: 1.5}}
  - {{precision: nf4, metric: perplexity.ratio, max: 0.5}}
"""
MEASURES = ("memory", "perplexity", "footprint", "throughput")
NF4_PERPLEXITY = "suites/s.yaml::m[nf4]::perplexity"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    answer = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return answer.stdout.strip()


@dataclass(frozen=True)
class FirstRun:
    """Everything at once: all cells, one broken limit, every kind of report."""

    project: Project
    outcome: Outcome
    run: Run
    path: Path
    sha: str

    @property
    def benchmarks(self) -> list[dict[str, Any]]:
        stored = json.loads((self.project.folder / "bench.json").read_text())
        return list(stored["benchmarks"])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    project = Project(tmp_path_factory.mktemp("first"))
    write_checkpoint(project.folder / "model", num_hidden_layers=1)
    project.write("suites/s.yaml", SUITE)
    project.write(".gitignore", "*\n!suites\n!*.yaml\n")
    git(project.folder, "init", "-q")
    git(project.folder, "add", "suites")
    git(project.folder, "commit", "-q", "-m", "suite")
    outcome = project.run(
        "-v", "--junitxml=junit.xml", "--benchmark-json=bench.json", "--benchmark-autosave"
    )
    (path,) = project.run_paths("s")
    sha = git(project.folder, "rev-parse", "HEAD")
    return FirstRun(project, outcome, project.last_run("s"), path, sha)


def test_every_cell_is_measured_reference_first_and_one_limit_breaks(first: FirstRun) -> None:
    ids = [f"suites/s.yaml::m[{p}]::{m}" for p in ("fp32", "bf16", "nf4") for m in MEASURES]
    assert first.outcome.results == {
        node: "FAILED" if node == NF4_PERPLEXITY else "PASSED" for node in ids
    }, first.outcome.text
    assert list(first.outcome.results) == ids
    assert first.outcome.code == pytest.ExitCode.TESTS_FAILED


def test_a_broken_limit_is_one_paragraph_that_says_all(first: FirstRun) -> None:
    line = 1 + SUITE.splitlines().index("  - {precision: nf4, metric: perplexity.ratio, max: 0.5}")
    records = find_records(first.run)
    ours = records["m[nf4]::perplexity"]
    theirs = records["m[fp32]::perplexity"]
    ratio, seen = ours.paired["ratio"], ours.verdicts[0].smallest_detectable
    shown = show_estimate(ratio.value, interval=ratio.interval, beside=(0.5,))
    own, other = show_numbers([one.values["ppl"].value for one in (ours, theirs)])
    assert first.outcome.failures == {
        "m[nf4]::perplexity": (
            f"m[nf4]: perplexity.ratio is {shown}, the limit is max 0.5; ppl {own}, "
            f"reference fp32 {other}; harm is seen in 4 of 5 runs at or above "
            f"{show_numbers([seen])[0]} (suites/s.yaml:{line}:5).\n"
            f"Run file: results/runs/s/{first.path.name}"
        )
    }
    assert not first.outcome.shows_traceback


def test_the_run_file_holds_every_record_the_broken_limit_s_too(first: FirstRun) -> None:
    run = first.run
    cells = ("bf16", "fp32", "nf4")  # as the suite lists them
    assert [r.cell.precision for r in run.records] == [c for c in cells for _ in MEASURES]
    assert set(find_records(run)) == {f"m[{c}]::{m}" for c in cells for m in MEASURES}
    broken = find_records(run)["m[nf4]::perplexity"]
    assert broken.values["ppl"].value is not None
    assert broken.validity.status == "ok"
    assert [v.verdict for v in broken.verdicts] == ["FAIL"]
    assert [v.verdict for v in find_records(run)["m[bf16]::perplexity"].verdicts] == ["PASS"]
    assert broken.cell.attested is not None
    assert broken.cell.declared["use"] == "nf4"
    assert run.run.interrupted is False
    assert run.run.argv[:2] == ["pytest", "-v"]
    assert not any(r.reference_only for r in run.records)
    assert all(r.seconds["total"] > 0 for r in run.records)


def test_the_run_file_validates_against_the_shipped_schema(first: FirstRun) -> None:
    schema = json.loads((ROOT / "harness/run.schema.json").read_text())
    jsonschema.validate(json.loads(first.path.read_text()), schema)


def test_the_run_file_is_named_after_time_commit_and_device(first: FirstRun) -> None:
    assert first.path.parent == first.project.folder / "results/runs/s"
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{first.sha[:10]}-cpu-[a-z0-9-]+\.json", first.path.name)
    assert (first.run.run.git_sha, first.run.run.git_dirty) == (first.sha, False)
    assert first.run.run.id == f"s/{first.path.stem}"
    assert not list(first.path.parent.glob("*journal*"))


def test_the_run_file_names_no_user_no_home_and_no_place_on_this_machine(first: FirstRun) -> None:
    text = first.path.read_text()
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert not re.search(rf"\b(?:home|Users)/{re.escape(getpass.getuser())}\b", text)
    assert str(first.project.folder) not in text


def test_the_summary_shows_the_matrix_and_where_the_run_file_is(first: FirstRun) -> None:
    _, _, summary = first.outcome.text.partition("precision-harness: s ==")
    assert "reference fp32" in summary
    rows: dict[str, str] = {}
    for line in summary.splitlines():
        if re.match(r"(bf16|fp32|nf4)  ", line):  # the matrix comes first, then tables of details
            rows.setdefault(line.split()[0], line)
    assert list(rows) == ["bf16", "fp32", "nf4"]
    nf4 = find_records(first.run)["m[nf4]::perplexity"]
    assert f"{nf4.values['ppl'].value:.3f}  {nf4.paired['ratio'].value:.4f}" in rows["nf4"]
    assert "FAIL 0/1" in summary
    assert "PASS 1/1" in summary
    assert f"run file: results/runs/s/{first.path.name}" in summary


def test_junit_carries_the_values_as_properties(first: FirstRun) -> None:
    cases = read_junit(first.project.folder / "junit.xml")
    assert set(cases) == set(find_records(first.run))
    record = find_records(first.run)["m[nf4]::perplexity"]
    shown = cases["m[nf4]::perplexity"]
    assert shown == {name: str(value) for name, value in list_properties(record)}
    assert shown["perplexity.ppl"] == str(record.values["ppl"].value)
    assert shown["verdict.perplexity.ratio.limit"] == "FAIL"
    text = (first.project.folder / "junit.xml").read_text()
    assert 'failures="1"' in text


def test_pytest_benchmark_shows_stores_and_exports_the_worker_s_own_durations(
    first: FirstRun,
) -> None:
    stored = {b["name"]: b for b in first.benchmarks}
    assert set(stored) == {
        f"m[{p}]::{kind}[1]" for p in ("fp32", "bf16", "nf4") for kind in ("prefill", "decode")
    }
    for name, entry in stored.items():
        cell, _, kind = name.partition("::")
        samples = find_records(first.run)[f"{cell}::throughput"].samples["1"]
        key = "ttft_s" if kind.startswith("prefill") else "decode_s"
        # The clock adds up, so the last digits may differ.
        assert entry["stats"]["data"] == pytest.approx(samples[key], rel=1e-9)
        assert entry["stats"]["rounds"] == len(samples[key]) == 3
        assert entry["group"] == f"m {kind[:-3]}, batch 1"
        assert entry["extra_info"]["tokens_per_s"] > 0
    assert "benchmark 'm decode, batch 1': 3 tests" in first.outcome.text
    saved = list((first.project.folder / ".benchmarks").rglob("*.json"))
    assert len(saved) == 1


@pytest.fixture(scope="module")
def rerun(first: FirstRun) -> tuple[Outcome, Run]:
    """What failed last time, with the commit's suite changed (only in a comment)."""
    project = first.project
    project.write("suites/s.yaml", SUITE + "# later\n")
    outcome = project.run("--lf", "-v")
    return outcome, project.last_run("s")


def test_last_failed_measures_that_item_again_and_reuses_the_reference(
    first: FirstRun, rerun: tuple[Outcome, Run]
) -> None:
    outcome, run = rerun
    assert outcome.results == {NF4_PERPLEXITY: "FAILED"}, outcome.text
    records = find_records(run)
    assert set(records) == {"m[nf4]::perplexity", "m[fp32]::perplexity"}
    reference = records["m[fp32]::perplexity"]
    assert reference.reference_only
    assert reference.reused_from == first.run.run.id
    before = find_records(first.run)["m[fp32]::perplexity"]
    assert reference.values == before.values
    assert reference.items == before.items
    assert not records["m[nf4]::perplexity"].reference_only
    assert run.run.interrupted is False


def test_a_changed_tracked_file_makes_the_run_dirty_in_content_and_name(
    first: FirstRun, rerun: tuple[Outcome, Run]
) -> None:
    run = rerun[1]
    assert (run.run.git_sha, run.run.git_dirty) == (first.sha, True)
    assert f"-{first.sha[:10]}-dirty-cpu-" in run.run.id


@pytest.fixture(scope="module")
def compared(first: FirstRun, rerun: tuple[Outcome, Run]) -> tuple[Outcome, Run]:
    """The benchmarks of one precision that is not the reference, compared with the saved ones."""
    del rerun  # comes first: it needs what failed last
    project = first.project
    outcome = project.run("-v", "--precision", "bf16", "--benchmark-only", "--benchmark-compare")
    return outcome, project.last_run("s")


def test_benchmark_only_and_compare_work_and_a_timed_reference_is_never_reused(
    compared: tuple[Outcome, Run],
) -> None:
    outcome, run = compared
    assert outcome.code == 0, outcome.text
    assert outcome.results["suites/s.yaml::m[bf16]::throughput"] == "PASSED"
    assert "PASSED" not in {
        result for node, result in outcome.results.items() if "throughput" not in node
    }
    assert "Comparing against benchmarks from" in outcome.text
    assert "m[bf16]::decode[1] (0001_" in outcome.text
    records = find_records(run)
    assert set(records) == {"m[bf16]::throughput", "m[fp32]::throughput"}
    assert run.run.interrupted is False, "skipped benchmarks are not missing"
    assert records["m[fp32]::throughput"].reference_only
    assert records["m[fp32]::throughput"].reused_from is None
    assert records["m[bf16]::throughput"].paired["decode_speedup[1]"].value is not None


def test_benchmarks_can_be_skipped(first: FirstRun) -> None:
    node = "suites/s.yaml::m[fp32]::throughput"
    skipped = first.project.run(node, "suites/s.yaml::m[fp32]::footprint", "-v", "--benchmark-skip")
    assert skipped.results == {
        node: "SKIPPED",
        "suites/s.yaml::m[fp32]::footprint": "PASSED",
    }, skipped.text
    assert first.project.last_run("s").run.interrupted is False


@pytest.mark.parametrize("changed", ["text", "weights"])
def test_a_reference_is_not_reused_once_its_text_or_weights_are_others(
    first: FirstRun, compared: tuple[Outcome, Run], changed: str
) -> None:
    del compared  # comes first: it needs things as they were
    project = first.project
    before = find_records(first.run)["m[fp32]::perplexity"]
    if changed == "text":
        project.write("text.txt", "Another text altogether. " * 20)
    else:
        project.write("text.txt", SENTENCES)
        shutil.rmtree(project.folder / "model")
        write_checkpoint(project.folder / "model", num_hidden_layers=1, seed=1)
    outcome = project.run("suites/s.yaml::m[bf16]::perplexity")
    assert outcome.code == 0, outcome.text
    record = find_records(project.last_run("s"))["m[fp32]::perplexity"]
    assert record.reference_only
    assert record.reused_from is None
    assert record.values["ppl"] != before.values["ppl"]
