"""What a pytest user meets before anything is measured: collection, selection, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.projects import Outcome, Project

pytest_plugins = ["pytester"]

MODELS = (
    "models: [{name: a, source: 'builtin:tiny-world'}, {name: b, source: 'builtin:tiny-world'}]"
)
MEASURES = "measure: {footprint: , perplexity: {text: ../text.txt, context: 8}}"
SUITE = f"name: x\nreference: fp32\n{MODELS}\nprecisions: [fp32, int8, nf4]\n{MEASURES}\n"
OTHER = SUITE.replace("name: x", "name: y").replace(
    "[fp32, int8, nf4]", "[fp32, {name: mine, use: nf4}]"
)


def ids(
    *cells: str, suite: str = "suites/x.yaml", measures: str = "footprint perplexity"
) -> list[str]:
    return [f"{suite}::{cell}::{measure}" for cell in cells for measure in measures.split()]


ALL_X = ids("a[fp32]", "a[int8]", "a[nf4]", "b[fp32]", "b[int8]", "b[nf4]")
ALL_Y = ids("a[fp32]", "a[mine]", "b[fp32]", "b[mine]", suite="suites/deep/y.yml")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("selection"))
    project.write("suites/x.yaml", SUITE)
    project.write("suites/deep/y.yml", OTHER.replace("../text.txt", "../../text.txt"))
    # Not in a folder `suites`: of these only the one that reads like a suite is one.
    project.write("elsewhere/z.yaml", SUITE.replace("name: x", "name: z"))
    project.write("elsewhere/compose.yaml", "services: {web: {image: nginx}}\n")
    project.write("elsewhere/notes.yml", "models of: the world\nmeasure: [tape]\n")
    project.write("elsewhere/broken.yaml", "\t{{ templating }}\n")
    return project


Collect = Callable[..., Outcome]


@pytest.fixture
def collect(
    project: Project,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Collect:
    """``pytest --collect-only -q`` in the project, without a process of its own."""
    monkeypatch.chdir(project.folder)

    def run(*arguments: str) -> Outcome:
        found = pytester.inline_run("--collect-only", "-q", *arguments)
        shown = capsys.readouterr()
        return Outcome(int(found.ret), shown.out + shown.err)

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["suites/x.yaml"], ALL_X),
        (["suites"], [*ALL_Y, *ALL_X]),
        (["suites", "--precision", "nf4"], ids("a[nf4]", "b[nf4]")),
        (["suites/x.yaml", "--precision", "nf4, int8"], [i for i in ALL_X if "fp32" not in i]),
        (
            ["suites/x.yaml", "--precision=nf4", "--precision=int8"],
            [i for i in ALL_X if "fp32" not in i],
        ),
        (["suites", "--precision", "mine"], ids("a[mine]", "b[mine]", suite="suites/deep/y.yml")),
        (
            ["suites/x.yaml", "--model", "b", "--measure", "perplexity", "--precision", "fp32"],
            ids("b[fp32]", measures="perplexity"),
        ),
        (
            ["suites/x.yaml", "-k", "int8 and footprint"],
            ids("a[int8]", "b[int8]", measures="footprint"),
        ),
        # A marker per measurement, per precision and per what a variation is made of.
        (
            ["suites", "-m", "nf4 and perplexity"],
            [i for i in [*ALL_Y, *ALL_X] if ("nf4" in i or "mine" in i) and "perp" in i],
        ),
        (["suites", "-m", "mine"], ids("a[mine]", "b[mine]", suite="suites/deep/y.yml")),
        (["suites/x.yaml::a[nf4]::perplexity"], ids("a[nf4]", measures="perplexity")),
        (["suites/x.yaml::a[nf4]"], ids("a[nf4]")),
        (["suites/x.yaml::a"], ids("a[fp32]", "a[int8]", "a[nf4]")),
        # What is named twice is the union, as pytest has it.
        (["suites/x.yaml", "suites/x.yaml::a[nf4]::perplexity"], ALL_X),
        # A suite's items stay together, and a cell's, in whatever order they were named.
        (
            [
                "suites/x.yaml::a[nf4]::perplexity",
                "suites/deep/y.yml::b[mine]::footprint",
                "suites/x.yaml::a[nf4]::footprint",
            ],
            [*ids("a[nf4]", measures="footprint perplexity"), ALL_Y[6]],
        ),
        (
            ["suites/x.yaml::a[nf4]::perplexity", "suites/x.yaml::a[nf4]::footprint"],
            ids("a[nf4]", measures="footprint perplexity"),
        ),
        (
            ["suites/x.yaml::a[nf4]::perplexity", "suites/x.yaml::b[int8]::footprint"],
            [*ids("a[nf4]", measures="perplexity"), *ids("b[int8]", measures="footprint")],
        ),
        (["suites/x.yaml::a[nf4]::perplexity", "suites/x.yaml::a[nf4]"], ids("a[nf4]")),
        (
            [
                "suites/x.yaml",
                "--deselect",
                "suites/x.yaml::a",
                "--deselect",
                "suites/x.yaml::b[nf4]::perplexity",
            ],
            [i for i in ALL_X if "::b" in i and i != "suites/x.yaml::b[nf4]::perplexity"],
        ),
        (
            ["suites/deep/y.yml::a[mine]::footprint"],
            ids("a[mine]", suite="suites/deep/y.yml", measures="footprint"),
        ),
        (["elsewhere"], [i.replace("suites/x", "elsewhere/z") for i in ALL_X]),
        (["elsewhere/z.yaml::a[nf4]::footprint"], ["elsewhere/z.yaml::a[nf4]::footprint"]),
    ],
    ids=lambda given: (
        " ".join(given)[:50] if isinstance(given, list) and "::" not in given[-1] else None
    ),
)
def test_what_is_selected_is_collected_in_the_order_of_the_suite(
    collect: Collect, arguments: list[str], expected: list[str]
) -> None:
    outcome = collect(*arguments)
    assert outcome.node_ids == expected, outcome.text
    assert outcome.code == 0


@pytest.mark.e2e
def test_node_ids_start_at_the_root_wherever_pytest_is_called(project: Project) -> None:
    wanted = ids("a[nf4]", measures="perplexity")
    deep = project.folder / "suites" / "deep"
    relative = project.collect("../x.yaml::a[nf4]::perplexity", cwd=deep)
    assert relative.node_ids == wanted, relative.text
    absolute = project.collect(f"{project.folder}/suites/x.yaml::a[nf4]::perplexity", cwd=deep)
    assert absolute.node_ids == wanted, absolute.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["suites", "--precision", "nf5"],
            "unknown precision 'nf5'; did you mean 'nf4'? Known: fp32, int8, mine, nf4",
        ),
        (["suites", "--model", "c"], "unknown model 'c'. Known: a, b"),
        (
            ["suites", "--measure", "perplxity"],
            "unknown measurement 'perplxity'; did you mean 'perplexity'?",
        ),
        (
            ["suites/x.yaml::a[nf4]::perplexty"],
            "suites/x.yaml::a[nf4]::perplexty: unknown measurement 'perplexty'; "
            "did you mean 'perplexity'? Known: footprint, perplexity",
        ),
        (
            ["suites/x.yaml::a[nf5]::perplexity"],
            "suites/x.yaml::a[nf5]: unknown cell 'a[nf5]'; did you mean 'a[nf4]'?",
        ),
        (
            ["suites/x.yaml::a[nf4]::footprint", "suites/x.yaml::a[nf4]::x"],
            "suites/x.yaml::a[nf4]::x: unknown measurement 'x'. Known: footprint, perplexity",
        ),
        (["suites/x.yaml::c"], "suites/x.yaml::c: unknown model 'c'. Known: a, b"),
        (["suites/none.yaml"], "suites/none.yaml"),
        (
            ["suites", "--device", "gpu"],
            "--device: expected auto, cpu, cuda or cuda:N, found 'gpu'",
        ),
        (
            ["suites", "--allow", "weights"],
            "--allow: 'weights' is no field that stops a comparison",
        ),
        (["suites", "--cell-timeout", "0"], "--cell-timeout"),
    ],
    ids=lambda given: " ".join(given[-2:]) if isinstance(given, list) else "",
)
def test_a_wrong_name_or_option_is_a_usage_error_of_one_line(
    collect: Collect, arguments: list[str], message: str
) -> None:
    outcome = collect(*arguments)
    assert outcome.code == pytest.ExitCode.USAGE_ERROR, outcome.text
    assert message in outcome.text
    assert not outcome.shows_traceback, outcome.text


def test_an_unknown_name_next_to_a_selection_of_other_suites_is_no_error(collect: Collect) -> None:
    # `mine` is a precision of y.yml alone.
    outcome = collect("suites", "--precision", "mine,int8")
    assert outcome.code == 0
    assert outcome.node_ids == [i for i in [*ALL_Y, *ALL_X] if "mine" in i or "int8" in i]


@pytest.mark.e2e
def test_a_model_s_name_may_hold_a_colon_and_a_suite_any_folder(tmp_path: Path) -> None:
    project = Project(tmp_path)
    node = "suites/v1.yaml/x.yaml::a:1.0[nf4]::perplexity"
    text = SUITE.replace("../text.txt", "../../text.txt").replace("name: a,", "name: 'a:1.0',")
    project.write("suites/v1.yaml/x.yaml", text)
    outcome = project.collect(node)
    assert outcome.node_ids == [node], outcome.text


@pytest.mark.e2e
def test_a_thousand_cells_collect_completely_and_one_collector_each(tmp_path: Path) -> None:
    project = Project(tmp_path)
    models = "".join(f"  - {{name: m{n}, source: 'builtin:tiny-world'}}\n" for n in range(100))
    variations = "".join(f"  - {{name: v{n}, use: nf4}}\n" for n in range(9))
    project.write(
        "suites/big.yaml",
        f"name: big\nmodels:\n{models}precisions:\n  - fp32\n{variations}"
        "measure: {footprint: }\n",
    )
    listed = project.collect("suites")
    expected = [
        f"suites/big.yaml::m{m}[{precision}]::footprint"
        for m in range(100)
        for precision in ("fp32", *(f"v{n}" for n in range(9)))
    ]
    assert listed.node_ids == expected
    tree = project.run("--collect-only", "suites", "--model", "m0", "--precision", "fp32,v1")
    nodes = [line.strip() for line in tree.text.splitlines() if line.strip().startswith("<")]
    assert nodes[-5:] == [
        "<SuiteFile big.yaml>",
        "<CellCollector m0[fp32]>",
        "<MeasurementItem footprint>",
        "<CellCollector m0[v1]>",
        "<MeasurementItem footprint>",
    ]


@pytest.mark.e2e
def test_two_suites_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("suites/one.yaml", SUITE)
    project.write("suites/two.yaml", SUITE)
    outcome = project.collect("suites")
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert "suites/two.yaml: the name 'x' is also that of suites/one.yaml" in outcome.text


@pytest.mark.e2e
def test_ordinary_tests_beside_suites_are_left_alone(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("suites/x.yaml", SUITE)
    project.write("test_own.py", "def test_own():\n    assert 1 + 1 == 2\n")
    outcome = project.run("test_own.py", "-v")
    assert outcome.code == 0
    assert "test_own.py::test_own PASSED" in outcome.text
    assert "precision-harness" not in outcome.text
    # A name is checked only where there are suites to know it.
    assert project.run("test_own.py", "--precision", "nf4").code == 0
    assert not (tmp_path / "results").exists()


@pytest.mark.e2e
def test_under_xdist_other_tests_run_and_measurements_fail_at_once(project: Project) -> None:
    project.write("elsewhere/test_own.py", "def test_own(): pass\n")
    node = "suites/x.yaml::a[nf4]"
    outcome = project.run("-n", "2", "elsewhere/test_own.py", node, "--measure", "footprint")
    assert outcome.code == pytest.ExitCode.TESTS_FAILED, outcome.text
    assert "1 failed, 1 passed" in outcome.text
    assert "does not run under pytest-xdist" in outcome.text
    assert not project.run_paths("x")


@pytest.mark.e2e
def test_a_repository_below_a_folder_called_suites_is_no_folder_of_suites(tmp_path: Path) -> None:
    project = Project(tmp_path / "suites" / "repository")
    project.write("docs/mkdocs.yml", "site_name: docs\n")
    project.write("suites/x.yaml", SUITE)
    assert project.collect(".").node_ids == ALL_X
