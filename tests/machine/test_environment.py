"""The facts recorded about a machine, without the private ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.machine import environment
from harness.machine.environment import collect_environment, describe_git, device_slug

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "A1b2" * 9


def run_git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    run_git(folder, "init", "--initial-branch", "trunk")
    (folder / "tracked.txt").write_text("one")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-m", "first")
    return folder


def test_a_clean_checkout_has_its_commit_and_branch(repository: Path) -> None:
    sha = run_git(repository, "rev-parse", "HEAD")
    assert describe_git(repository) == {"sha": sha, "branch": "trunk", "dirty": False}


def test_the_dirty_flag_follows_tracked_changes_and_ignores_untracked_files(
    repository: Path,
) -> None:
    (repository / "results.json").write_text("{}")
    assert describe_git(repository)["dirty"] is False
    (repository / "tracked.txt").write_text("two")
    assert describe_git(repository)["dirty"] is True
    run_git(repository, "add", "tracked.txt")
    assert describe_git(repository)["dirty"] is True
    run_git(repository, "commit", "-m", "second")
    assert describe_git(repository)["dirty"] is False


def test_a_subfolder_reports_its_repository(repository: Path) -> None:
    (repository / "suites").mkdir()
    assert describe_git(repository / "suites") == describe_git(repository)


def test_a_detached_head_has_a_commit_and_no_branch(repository: Path) -> None:
    run_git(repository, "checkout", "--detach")
    facts = describe_git(repository)
    assert facts["branch"] is None
    assert facts["sha"] == run_git(repository, "rev-parse", "HEAD")


def test_a_repository_without_commits_has_no_sha(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "--initial-branch", "trunk")
    assert describe_git(tmp_path) == {"sha": None, "branch": "trunk", "dirty": False}


def test_outside_a_repository_all_git_facts_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    nothing = {"sha": None, "branch": None, "dirty": None}
    assert describe_git(tmp_path) == nothing
    assert describe_git(tmp_path / "gone") == nothing


def test_without_git_all_git_facts_are_none(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert describe_git(repository) == {"sha": None, "branch": None, "dirty": None}


def test_a_git_hook_s_variables_do_not_redirect_to_another_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = describe_git(repository)
    run_git(tmp_path, "init", "--initial-branch", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / ".git" / "index"))
    assert describe_git(repository) == expected


def test_all_groups_are_collected_and_can_be_written_as_json(tmp_path: Path) -> None:
    facts = collect_environment(tmp_path)
    expected = "git python os cpu memory gpu libraries variables harness"
    assert list(facts) == expected.split()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_collecting_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; import harness.machine.environment as e; "
        "e.collect_environment(Path()); "
        "print({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "set()"


def test_the_cpu_is_described() -> None:
    facts = environment.describe_cpu()
    assert facts["name"] == environment.read_cpu_name()
    assert facts["logical_cores"] >= (facts["physical_cores"] or 1) >= 1
    assert len(facts["load_average"]) == 3
    assert facts["isa"] == sorted(facts["isa"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_usable_cores_follow_the_affinity_of_the_process() -> None:
    before = os.sched_getaffinity(0)
    assert environment.describe_cpu()["usable_cores"] == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert environment.describe_cpu()["usable_cores"] == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_memory_limit_is_reported_only_below_the_machine_s_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    total = environment.describe_memory()["total_bytes"]
    for limit, reported in ((None, None), (2 * total, None), (total, None), (total - 1, total - 1)):
        monkeypatch.setattr(environment, "read_memory_limit", lambda limit=limit: limit)
        found = environment.describe_memory()
        assert found == {"total_bytes": total, "limit_bytes": reported}


def test_versions_of_installed_libraries_are_read_and_absent_ones_are_none() -> None:
    assert environment.describe_libraries("pytest", "no-such-library") == {
        "pytest": pytest.__version__,
        "no-such-library": None,
    }


def test_only_variables_that_change_results_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"OMP_NUM_THREADS": "4", "PYTORCH_CUDA_ALLOC_CONF": "x", "TOKENIZERS_PARALLELISM": "0"}
    left = {"HF_TOKEN": TOKEN, "TORCH_HUB_TOKEN": "x", "HOSTNAME": "box", "USER": "al", "OMPX": "1"}
    for name, value in {**kept, **left}.items():
        monkeypatch.setenv(name, value)
    facts = environment.describe_variables()
    assert facts.items() >= kept.items()
    assert not facts.keys() & left.keys()


def test_the_harness_is_identified_by_version_and_sources() -> None:
    facts = environment.describe_harness()
    assert facts["version"] == harness.__version__
    assert len(facts["sources_sha256"]) == 64


@pytest.mark.parametrize(
    ("device", "gpu", "cpu", "slug"),
    [
        ("cuda", "NVIDIA H200", "x", "cuda-nvidia-h200"),
        ("cuda:3", "NVIDIA A100-SXM4-80GB", "x", "cuda-nvidia-a100-sxm4-80gb"),
        ("cuda", None, "Intel(R) Xeon(R) Processor", "cuda"),
        ("cpu", "NVIDIA H200", "Intel(R) Xeon(R) Processor @ 2.60GHz", "cpu-intel-xeon"),
        ("cpu", None, "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "cpu-intel-core-i7-8650u"),
        ("cpu", None, "AMD EPYC 7763 64-Core Processor", "cpu-amd-epyc-7763"),
        ("cpu", None, "", "cpu"),
        ("mps", None, "Apple M3", "mps"),
        ("cpu", None, "../../etc/passwd", "cpu-etc-passwd"),
    ],
)
def test_a_device_is_named_for_files(device: str, gpu: str | None, cpu: str, slug: str) -> None:
    assert device_slug(device, gpu, cpu) == slug


def test_collected_facts_name_no_host_and_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/zaphod")
    monkeypatch.setenv("TORCH_HOME", "/home/zaphod/torch")
    facts = collect_environment(tmp_path)
    assert facts["variables"]["TORCH_HOME"] == "~/torch"
    assert "zaphod" not in json.dumps(facts)
