"""A blessed commit measured again beside this code: real repositories, real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.records.record import Record, SameNight, Verdict
from harness.run.same_night import Task, announce, link_untracked, measure_same_night, open_commit
from harness.run.settings import RunSettings
from harness.suite.read import load_suite
from harness.verdicts.bless import bless
from tests.support.cells_in_process import write_llama
from tests.support.projects import ROOT, Outcome, Project, find_records
from tests.support.records import ENVIRONMENT, make_run, make_speeds

SUITE = """name: s
models: [{name: m, source: ../model}]
precisions: [{name: nf4, use: fp32, engine: sleepy}]
measure:
  throughput: {prompt_tokens: 8, new_tokens: 3, min_rounds: 3, min_time_s: 0, warmup_s: 0,
    roofline: false, processes: 3}
"""
ENGINE = '''"""The transformers engine; sleeps before every token."""

import time

from harness.engines.transformers.loading import load_cell

SLEEP_S = 0.1


def load(job):
    engine = load_cell(job)
    open_generator = engine.open_generator

    def open_slow(*given):
        generator = open_generator(*given)
        decode = generator._decode

        def step(**inputs):
            time.sleep(SLEEP_S)
            return decode(**inputs)

        generator._decode = step
        return generator

    engine.open_generator = open_slow
    return engine
'''
DECODE = "throughput.decode_tokens_per_s[1]"
THROUGHPUT = "suites/s.yaml::m[nf4]::throughput"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    )
    return done.stdout.strip()


def commit(folder: Path, what: str = "change") -> str:
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", what)
    return git(folder, "rev-parse", "HEAD")


# Where the commit comes from, without measuring


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A suite in a folder of the repository, with a model and a text that git does not keep."""
    folder = tmp_path / "repository"
    suite = folder / "inner/suites/s.yaml"
    suite.parent.mkdir(parents=True)
    suite.write_text(SUITE.replace(", engine: sleepy", ""))
    (folder / ".gitignore").write_text("model\n")
    (folder / "inner/model").mkdir()
    (folder / "inner/model/config.json").write_text("{}")
    git(folder, "init", "-q", "--initial-branch", "trunk")
    commit(folder, "first")
    return folder


def lacking(root: Path, sha: str, suite: Path | None = None) -> str:
    """Why nothing was measured; nothing may be left behind."""
    loaded = load_suite(suite or root / "suites/s.yaml")
    run = make_run(make_speeds(100.0, 0.01, 6), git_sha=sha)
    blessed = bless([run], "cpu-xeon", None, "because", "2026-01-02").thresholds
    record = make_speeds(80.0)
    found = blessed.find(record)
    assert found is not None
    task = Task(loaded, record, found, ENVIRONMENT, ())
    settings = RunSettings(root / "results/runs", (), root)
    same_night, interrupted = measure_same_night(
        task, settings, root / "results/ab/x.json", lambda _: None
    )
    assert not interrupted
    assert same_night == SameNight(commit=sha, lacking=same_night.lacking)
    assert not (root / "results").exists()
    return same_night.lacking


def test_a_commit_is_opened_in_a_folder_that_is_gone_afterwards(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    (repository / "inner/suites/s.yaml").write_text("later")
    commit(repository)
    (repository / "inner/suites/s.yaml").write_text("not committed")
    hook = repository / ".git/hooks/post-checkout"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with open_commit(repository / "inner", first) as (found, tree):
        assert (found.top, found.place) == (repository.resolve(), Path("inner"))
        assert (tree / "inner/suites/s.yaml").read_text().startswith("name: s")
        assert not (tree / "inner/model").exists()
    assert not tree.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert (repository / "inner/suites/s.yaml").read_text() == "not committed"
    with pytest.raises(KeyboardInterrupt), open_commit(repository, first) as (_, tree):
        raise KeyboardInterrupt
    assert not tree.parent.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


OPEN = """import subprocess, sys
from pathlib import Path
from harness.run.same_night import open_commit
with open_commit(Path(sys.argv[1]), sys.argv[2]) as (_, tree):
    print(tree, flush=True)
    subprocess.run(["sleep", "60"])
"""


@pytest.mark.slow
def test_what_ends_by_a_signal_leaves_nothing_or_is_cleaned_up_by_the_next(
    repository: Path, tmp_path: Path
) -> None:
    """SIGTERM at once; after SIGKILL at the next start. A commit still in use stays."""
    sha, left = git(repository, "rev-parse", "HEAD"), {}
    command = [sys.executable, "-c", OPEN, str(repository), sha]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    for number in (signal.SIGTERM, signal.SIGKILL, None):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert child.stdout is not None
        with child.stdout:
            left[number] = Path(child.stdout.readline().strip()), child
        if number is not None:
            child.send_signal(number)
            child.wait(timeout=30)
    assert not left[signal.SIGTERM][0].parent.exists()
    killed, (used, child) = left[signal.SIGKILL][0], left[None]
    assert not killed.parent.exists()  # the third has removed it
    with open_commit(repository, sha):
        assert used.exists()
    child.terminate()
    child.wait(timeout=30)
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_what_git_does_not_keep_is_linked(repository: Path) -> None:
    suite = load_suite(repository / "inner/suites/s.yaml")
    with open_commit(repository / "inner", git(repository, "rev-parse", "HEAD")) as (found, tree):
        link_untracked(suite, found, tree)
        assert (tree / "inner/model/config.json").read_text() == "{}"
    assert (repository / "inner/model/config.json").exists()


def test_why_a_commit_cannot_be_had_and_what_to_do(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, unknown = repository / "inner", "0" * 40
    assert lacking(inner, unknown) == (
        "commit 0000000000 is not in this repository: fetch the branch that it is on"
    )
    (repository / "later").write_text("")
    first, _ = git(repository, "rev-parse", "HEAD"), commit(repository)
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{repository}", str(shallow))
    shutil.copytree(inner / "model", shallow / "inner/model")
    assert lacking(shallow / "inner", first) == (
        f"commit {first[:10]} is not in this shallow clone: `git fetch --unshallow` fetches it; "
        "in a GitHub workflow, `fetch-depth: 0` of actions/checkout"
    )
    (inner / "suites/s.yaml").rename(inner / "suites/t.yaml")
    moved = lacking(inner, first, inner / "suites/t.yaml")
    assert moved == f"{first[:10]} has no inner/suites/t.yaml"
    shutil.rmtree(repository / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "not a git repository" in lacking(inner, first, inner / "suites/t.yaml")
    monkeypatch.setenv("PATH", "")
    assert lacking(inner, first, inner / "suites/t.yaml").startswith("git cannot be run")


def test_what_will_be_measured_is_announced_with_its_time() -> None:
    """60 s in 3 processes: 12 of 20 s."""
    [value] = make_speeds(1.0, n=3).values.values()
    names = [f"v{n}" for n in range(6)]
    verdicts = tuple(
        Verdict(
            verdict="FAIL", metric=f"t.{name}", bound="", value=1.0, text="",
            suspicious=name != "v2",
        )
        for name in names
    )  # fmt: skip
    record = make_speeds(1.0, seconds={"total": 60.0}, verdicts=verdicts)
    record = record.model_copy(update={"values": dict.fromkeys(names, value)})
    assert announce(record, "abcdef" * 7) == (
        "m[nf4]: suspicious: t.v0, t.v1, t.v3, …: measuring abcdefabcd and this code in turn, "
        "12 processes, about 4 min and the start of Python for each"
    )


def test_the_command_to_repeat_a_measurement_is_quoted_for_a_shell(tmp_path: Path) -> None:
    settings = RunSettings(
        tmp_path, (), tmp_path, program=("harness", "run"), options=("--device=cpu",),
        folder=tmp_path / "suites",
    )  # fmt: skip
    command = settings.show_command(tmp_path / "s.yaml", "m[nf4]", "throughput", "--confirm")
    assert command == "harness run '../s.yaml::m[nf4]::throughput' --device=cpu --confirm"


# Whole runs: the engine sleeps, so that a slower commit is slower on a busy machine, too


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def blessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the package, an engine of its own, and its speeds blessed."""
    project = Project(tmp_path_factory.mktemp("blessed") / "repository")
    folder = project.folder
    project.variables["PYTHONPATH"] = str(folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "harness", folder / "harness", ignore=ignored)
    # Other tests may run beside this one, and fewer pairs take less long.
    edit(folder / "harness/machine/telemetry.py", ": count_other_cores(", ": None and (")
    edit(folder / "harness/run/ab.py", "ENOUGH_PAIRS = 6", "ENOUGH_PAIRS = 3")
    project.write("suites/s.yaml", SUITE)
    project.write(".gitignore", "model\nresults/runs\nresults/ab\nharness-cache\nhf\n__pycache__\n")
    write_llama(folder / "model")
    git(folder, "init", "-q", "--initial-branch", "trunk")
    commit(folder, "without the engine")
    project.write("harness/engines/sleepy.py", ENGINE)
    sha = commit(folder, "first")
    outcome = run(project, "--bless", "--reason", "first")
    assert outcome.code == 0, outcome.text
    assert git(folder, "rev-parse", "HEAD") == sha
    commit(folder, "thresholds")
    return folder


@pytest.fixture
def project(blessed: Path, tmp_path: Path) -> Project:
    folder = tmp_path / "repository"
    shutil.copytree(blessed, folder, symlinks=True)
    return Project(folder, variables={"PYTHONPATH": str(folder)})


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short name: a socket's path holds some hundred characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run(project: Project, *arguments: str) -> Outcome:
    process = project.start(THROUGHPUT, *arguments)
    text, _ = process.communicate(timeout=900)
    return Outcome(process.returncode, text)


def decode(project: Project) -> tuple[Record, Verdict]:
    record = find_records(project.last_run("s"))["m[nf4]::throughput"]
    [verdict] = [one for one in record.verdicts if one.metric == DECODE]
    return record, verdict


def read_thresholds(project: Project) -> tuple[Path, dict[str, Any]]:
    [path] = (project.folder / "results/thresholds/s").glob("*.json")
    return path, json.loads(path.read_text())


def promise_more(project: Project) -> None:
    """Thresholds as of a machine that was half again as fast; the margin is a fifth."""
    path, data = read_thresholds(project)
    one = data["cells"]["m[nf4]"]["throughput"]["values"]["decode_tokens_per_s[1]"]
    one["value"] *= 1.5
    one["runs"] = [1.5 * speed for speed in one["runs"]]
    one["margin"] = 0.2 * one["value"]
    path.write_text(json.dumps(data))
    commit(project.folder, "thresholds of a faster machine")


def leaves_nothing(project: Project) -> bool:
    """No second work tree, and no change to the first."""
    trees = git(project.folder, "worktree", "list").splitlines()
    return len(trees) == 1 and not git(project.folder, "status", "--porcelain")


@pytest.mark.slow
@pytest.mark.e2e
def test_a_slower_commit_is_confirmed_by_the_command_that_its_verdict_prints(
    project: Project,
) -> None:
    first = git(project.folder, "rev-parse", "HEAD~1")
    edit(project.folder / "harness/engines/sleepy.py", "SLEEP_S = 0.1", "SLEEP_S = 0.2")
    commit(project.folder, "slower")
    outcome = run(project)
    record, verdict = decode(project)
    assert verdict.suspicious, outcome.text
    assert record.same_night is None
    found = re.search(r"; to (?:confirm|decide): (.+?) \(about .+ on this machine\)", verdict.text)
    assert found is not None, verdict.text
    assert found[1] == f"python -m pytest '{THROUGHPUT}' --confirm"

    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        found[1], shell=True, cwd=project.folder, env={**project.environment, "PATH": beside},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    record, verdict = decode(project)
    assert record.same_night is not None
    assert (record.same_night.commit, record.same_night.lacking) == (first, "")
    assert len(record.same_night.pairs["decode_tokens_per_s[1]"]) == 3
    assert record.same_night.changed == ""
    assert verdict.verdict == "FAIL", verdict.text
    assert f"Confirmed: slower than {first[:10]} in the same night: -" in verdict.text
    assert "measuring " + first[:10] + " and this code in turn, 6 processes" in done.stdout
    kept = json.loads((project.folder / record.same_night.file).read_text())
    assert [one["side"] for one in kept["samples"]] == list("ABBAAB")
    assert leaves_nothing(project)


@pytest.mark.slow
@pytest.mark.e2e
def test_unchanged_code_on_a_machine_that_became_slower_is_cleared(project: Project) -> None:
    """Where there is time for it; else nothing is measured, and the verdict stays."""
    promise_more(project)
    run(project, "--confirm", "--at-most", "1s")
    record, verdict = decode(project)
    assert record.same_night is not None
    assert not record.same_night.pairs
    assert verdict.verdict == "FAIL"
    assert "Not confirmed: it would take longer than --at-most leaves: about 1 s" in verdict.text
    outcome = run(project, "--confirm")
    record, verdict = decode(project)
    assert record.same_night is not None, outcome.text
    assert verdict.verdict == "PASS", verdict.text
    assert verdict.suspicious
    assert " (-3" in verdict.text  # a third slower than blessed, which stays to be seen
    assert "The machine, not the code: in the same night it differs from" in verdict.text
    assert "Cleared in the same night" in outcome.text
    assert "The machine, not the code" in outcome.text
    assert leaves_nothing(project)


@pytest.mark.slow
@pytest.mark.e2e
def test_ctrl_c_keeps_the_record_and_removes_the_commit_s_files(
    project: Project, temporary: Path
) -> None:
    promise_more(project)
    project.variables["TMPDIR"] = str(temporary)
    process = project.start(THROUGHPUT, "--confirm")
    folder = project.folder / "results/ab/s"
    while process.poll() is None and not any(folder.glob("*.json")):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, text
    record, verdict = decode(project)
    assert record.same_night is not None
    assert record.same_night.lacking == "interrupted"
    assert (verdict.verdict, "Not confirmed: interrupted." in verdict.text) == ("FAIL", True)
    assert not [path for path in temporary.iterdir() if path.name.startswith("precision-harness")]
    assert leaves_nothing(project)


@pytest.mark.slow
@pytest.mark.e2e
def test_a_commit_that_cannot_run_the_suite_leaves_the_verdict(project: Project) -> None:
    """It has not got the engine that the suite names."""
    promise_more(project)
    path, data = read_thresholds(project)
    before = git(project.folder, "rev-list", "--max-parents=0", "HEAD")
    data["cells"]["m[nf4]"]["throughput"]["commit"] = before
    path.write_text(json.dumps(data))
    commit(project.folder, "thresholds of an earlier commit")
    outcome = run(project, "--confirm")
    assert outcome.code == pytest.ExitCode.TESTS_FAILED, outcome.text
    _, verdict = decode(project)
    assert verdict.verdict == "FAIL"
    assert f"Not confirmed: {before[:10]}: " in verdict.text
    assert "precisions[0].engine: expected 'transformers', found 'sleepy'" in verdict.text
    assert leaves_nothing(project)
