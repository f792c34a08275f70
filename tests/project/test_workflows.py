"""The workflows cannot run here: what they name exists, and their scripts are at least bash."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.projects import ROOT

FOLDER = ROOT / ".github/workflows"
NAMES = ("ci.yml", "nightly.yml")


def read(name: str) -> dict[str, Any]:
    """Every scalar as text: YAML 1.1 would read the key ``on`` as true."""
    return dict(yaml.load((FOLDER / name).read_text(encoding="utf-8"), yaml.BaseLoader))


def steps_of(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job["steps"]]


def scripts_of(name: str) -> list[str]:
    return [step["run"] for step in steps_of(name) if "run" in step]


def step_called(name: str, title: str) -> dict[str, Any]:
    [found] = [step for step in steps_of(name) if step.get("name") == title]
    return found


def help_of(*command: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return answer.stdout


def words_behind(command: str, script: str) -> list[str]:
    """The arguments of each call of ``command``, with continued lines joined."""
    joined = script.replace("\\\n", " ")
    return [word for line in re.findall(rf"{command} (.*)", joined) for word in line.split()]


def test_these_are_all_the_workflows() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_has_least_permissions_an_end_and_no_second_run_beside_it(name: str) -> None:
    workflow = read(name)
    assert {"name", "on", "permissions", "concurrency", "jobs"} <= set(workflow)
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert int(job["timeout-minutes"]) > 0
        assert "runs-on" in job
        assert "permissions" not in job


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_github_s_own_pinned_to_a_major_and_leave_no_token_behind(name: str) -> None:
    used = [step for step in steps_of(name) if "uses" in step]
    assert used
    for step in used:
        assert re.fullmatch(r"actions/[a-z/-]+@v\d+", step["uses"]), step["uses"]
        if "checkout" in step["uses"]:
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_bash_and_nothing_is_pasted_into_them(name: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    for script in scripts_of(name):
        assert "${{" not in script, "an input pasted into a script is run by it"
        checked = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {word for script in scripts_of(name) for word in words_behind("make", script)}
    assert used
    assert used <= targets


@pytest.mark.parametrize(
    ("program", "command"),
    [("pytest", ("pytest",)), ("harness compare", ("harness.cli", "compare"))],
)
def test_the_options_of_the_nightly_commands_exist(program: str, command: tuple[str, ...]) -> None:
    words = [w for script in scripts_of("nightly.yml") for w in words_behind(program, script)]
    options = {word for word in words if word.startswith("--")}
    known = set(re.findall(r"(?<![\w-])--[a-z-]+", help_of(*command)))
    assert options
    assert options <= known


def test_ci_runs_the_gate_on_each_supported_python_with_torch_for_a_cpu() -> None:
    workflow = read("ci.yml")
    gate = set(re.findall(r"^make (\w+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert gate <= {word for s in scripts_of("ci.yml") for word in words_behind("make", s)}
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {versions[0]}–{versions[-1]}" in readme
    assert [f"3.{minor}" for minor in range(10, 10 + len(versions))] == versions
    assert f'requires-python = ">={versions[0]}"' in (ROOT / "pyproject.toml").read_text()
    checked_for = re.search(
        r'^python_version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert checked_for is not None
    assert step_called("ci.yml", "Lint")["if"] == f"matrix.python == '{checked_for[1]}'"
    assert workflow["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")
    assert set(workflow["on"]) == {"push", "pull_request"}


@pytest.mark.parametrize("name", NAMES)
def test_run_files_are_kept_whatever_happened(name: str) -> None:
    step = step_called(name, "Keep the run files")
    assert step["if"] == "always()"
    assert "results/runs/" in step["with"]["path"]


def test_the_night_starts_by_schedule_or_by_hand_on_a_gpu_with_the_whole_history() -> None:
    workflow = read("nightly.yml")
    assert set(workflow["on"]) == {"schedule", "workflow_dispatch"}
    [schedule] = workflow["on"]["schedule"]
    assert len(schedule["cron"].split()) == 5
    assert {"self-hosted", "gpu"} <= set(workflow["jobs"]["suites"]["runs-on"])
    assert workflow["concurrency"]["cancel-in-progress"] == "false"
    assert steps_of("nightly.yml")[0]["with"]["fetch-depth"] == "0"
    [pytest_call] = [s for s in scripts_of("nightly.yml") if "bin/pytest" in s]
    words = words_behind("pytest", pytest_call)
    assert "--require-all" in words
    # Without it smoke.yaml would pass on the CPU of a runner that has lost its GPU.
    assert words[words.index("--device") + 1] == "cuda"


def test_the_nightly_suites_exist_and_are_the_same_by_schedule_and_by_hand() -> None:
    workflow = read("nightly.yml")
    by_hand = workflow["on"]["workflow_dispatch"]["inputs"]["suites"]["default"]
    assert workflow["jobs"]["suites"]["env"]["SUITES"] == f"${{{{ inputs.suites || '{by_hand}' }}}}"
    for path in by_hand.split():
        assert (ROOT / path).is_file(), path


def test_the_night_before_is_fetched_from_where_it_was_kept() -> None:
    fetch = step_called("nightly.yml", "Fetch the last run of this runner")["with"]
    keep = step_called("nightly.yml", "Keep this run for the next night")["with"]
    assert (fetch["path"], fetch["key"]) == (keep["path"], keep["key"])
    assert keep["key"].startswith(fetch["restore-keys"])
    assert "github.run_id" not in fetch["restore-keys"]


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder where ``harness compare`` is a stub that answers, and ends as it is told."""
    stub = tmp_path / ".venv/bin/harness"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\necho "compared $*"\nexit "$STATUS"\n')
    stub.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4)])
def test_a_night_that_is_worse_fails_and_an_incomparable_one_warns(
    night: Path, status: int, ends: int
) -> None:
    script = step_called("nightly.yml", "Compare with last night")["run"]
    summary = night / "summary.md"
    answer = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=night,
        env={
            "PATH": "/usr/bin:/bin",
            "STATUS": str(status),
            "GITHUB_STEP_SUMMARY": str(summary),
            "RUNNER_TEMP": "/tmp/runner",
        },
        capture_output=True,
        text=True,
    )
    assert answer.returncode == ends
    assert ("::warning" in answer.stdout) == (status == 3)
    assert (
        summary.read_text() == "compared compare /tmp/runner/last-night results/runs --format md\n"
    )
