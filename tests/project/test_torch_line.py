"""The torch line: what pytest and the command line import holds no model library, ever."""

from __future__ import annotations

import ast
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
# Beyond the line: these may import model libraries, but none at the top of a file that declares a
# precision, a metric or a task, because suites are checked with them.
BEYOND = ("worker", "models", "precisions", "metrics", "tasks", "builtin")
DECLARING = ("precisions", "metrics", "tasks")
PACKAGE = Path(harness.__file__).parent


def list_modules(folders: tuple[str, ...], within: bool) -> list[str]:
    modules = [m.name for m in pkgutil.walk_packages(harness.__path__, "harness.")]
    return [name for name in modules if (name.split(".")[1] in folders) == within]


def import_in_fresh_process(names: list[str]) -> set[str]:
    code = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(answer.stdout.split())


def imports_of(path: Path) -> set[str]:
    """The top-level packages a file imports anywhere, inside functions included.

    What stands under ``if TYPE_CHECKING:`` is never executed and does not count.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        waiting.extend(ast.iter_child_nodes(node))
    return found


def test_importing_everything_this_side_of_the_line_imports_no_model_library() -> None:
    modules = list_modules(BEYOND, within=False)
    known = {"plugin", "session", "suite", "judge", "record", "references", "report.matrix"}
    assert {f"harness.{name}" for name in known} <= set(modules)
    assert import_in_fresh_process(modules) == set()


def test_nothing_this_side_of_the_line_imports_a_model_library_even_later() -> None:
    files = [
        path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in BEYOND
    ]
    assert len(files) > 15
    guilty = {str(p.relative_to(PACKAGE)): imports_of(p) & set(HEAVY) for p in files}
    assert {name: found for name, found in guilty.items() if found} == {}


def test_a_lazy_import_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "lazy.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import datasets\n"
        "def f():\n    from torch import nn\n"
    )
    assert imports_of(path) & set(HEAVY) == {"torch"}


def test_precisions_metrics_and_tasks_declare_themselves_without_a_model_library() -> None:
    # Scores declare no measurement: the worker imports them where it scores.
    modules = [
        name
        for name in list_modules(DECLARING, within=True)
        if not name.startswith("harness.scoring.scores.")
    ]
    assert "harness.scoring.scores" in modules
    assert {"harness.precisions.nf4", "harness.metrics.perplexity"} <= set(modules)
    assert "harness.tasks.mmlu" in modules
    assert import_in_fresh_process(modules) == set()


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
