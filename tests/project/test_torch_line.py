"""The torch line: what pytest and the command line import holds no model library, ever."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from tests.support.hub_server import Hub, serve_hub
from tests.support.projects import ROOT, Project

HEAVY = ("torch", "transformers", "datasets", "evaluate", "accelerate", "bitsandbytes")
# The cell's side of the line. metrics, tasks and precisions are read by both sides: importing one
# must import no model library. import-linter holds the rest (tests/project/test_layers.py).
CELL = ("worker", "scoring", "timing", "engines")


def list_modules(but: tuple[str, ...]) -> list[str]:
    modules = [m.name for m in pkgutil.walk_packages(harness.__path__, "harness.", onerror=print)]
    return [name for name in modules if name.split(".")[1] not in but]


def import_in_fresh_process(names: list[str]) -> set[str]:
    code = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(answer.stdout.split())


def test_importing_the_host_and_what_both_sides_read_imports_no_model_library() -> None:
    modules = [name for name in list_modules(but=CELL) if name != "harness.cli.__main__"]
    assert {"harness.plugin", "harness.run.suite_run", "harness.verdicts.limits"} <= set(modules)
    assert {"harness.precisions.nf4", "harness.metrics.perplexity"} <= set(modules)
    assert "harness.tasks.mmlu" in modules
    assert import_in_fresh_process(modules) == set()


def test_a_model_library_would_be_seen() -> None:
    assert "torch" in import_in_fresh_process(["harness.engines.transformers.engine"])


@pytest.mark.parametrize("isolated", [True, False])
def test_collecting_imports_no_model_library(isolated: bool) -> None:
    """Every shipped suite, in the very process that collects them."""
    spy = (
        "import sys, pytest\n"
        "class Spy:\n"
        "    def pytest_unconfigure(self):\n"
        f"        print('HEAVY:', *sorted(set({HEAVY!r}) & set(sys.modules)))\n"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[Spy()]))\n"
    )
    arguments = ["suites", "--collect-only", "-q"] + ([] if isolated else ["--no-isolate"])
    # pytest-benchmark says farewell where it finds itself in pytest-xdist's first worker.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-c", spy, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=outside)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "suites/smoke.yaml::tiny-world[nf4]::perplexity" in answer.stdout
    assert answer.stdout.splitlines()[-1].strip() == "HEAVY:"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as running:
        yield running


@pytest.mark.e2e
def test_running_a_suite_imports_no_model_library_and_asks_no_hub_that_it_does_not_name(
    tmp_path: Path, hub: Hub
) -> None:
    """Neither measuring, judging nor the closing summary."""
    project = Project(tmp_path, hub=hub.endpoint)
    project.write(
        "conftest.py",
        'pytest_plugins = ["harness.plugin"]\n'
        "def pytest_unconfigure():\n"
        "    import sys\n"
        f"    print('HEAVY:', *sorted(set({HEAVY!r}) & set(sys.modules)))\n",
    )
    project.write(
        "suites/x.yaml",
        "name: x\nmodels: [{name: m, source: 'builtin:tiny-world'}]\nprecisions: [bf16]\n"
        "measure: {footprint: }\nlimits: [{metric: footprint.bits_per_weight, max: 16}]\n",
    )
    outcome = project.run("-s")
    assert outcome.code == 0, outcome.text
    assert outcome.text.splitlines()[-1].strip() == "HEAVY:"
    assert hub.requests == []
