"""Suites whose models and texts live on a hub, against a real hub server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from harness.records.run_file import Run
from tests.support.cells_in_process import write_checkpoint
from tests.support.hub_server import TOKEN, Hub, serve_hub
from tests.support.projects import NOWHERE, SENTENCES, Outcome, Project, find_records

pytestmark = pytest.mark.e2e

MEASURE = """precisions: [fp32]
measure:
  perplexity:
    text: {path: acme/words, split: test}
    context: 32
  footprint:
"""


def suite(name: str, **models: str) -> str:
    entries = "".join(f"  - {{name: {model}, source: {s}}}\n" for model, s in models.items())
    return f"name: {name}\nmodels:\n{entries}{MEASURE}"


@dataclass(frozen=True)
class Runs:
    """Four runs of the same project: online, silent hub, no hub at all, and with a token."""

    project: Project
    shas: list[str]
    online: tuple[Outcome, Run]
    silent: tuple[Outcome, Run]
    probes: list[tuple[str, str]]
    gone: tuple[Outcome, Run]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve_hub() as running:
        yield running


@pytest.fixture(scope="module")
def runs(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("hub")
    old = write_checkpoint(folder / "old", num_hidden_layers=1)
    new = write_checkpoint(folder / "new", num_hidden_layers=1, seed=1)
    shas = hub.add("acme/tiny", old, new)
    hub.add("acme/secret", new, access="private")
    (folder / "words").mkdir()
    (folder / "words" / "test.txt").write_text(SENTENCES)
    hub.add("acme/words", folder / "words", kind="datasets")
    project = Project(folder / "project", hub=hub.endpoint)
    project.write(
        "suites/online.yaml",
        suite(
            "online",
            pinned=f"acme/tiny, revision: {shas[0][:10]}",
            newest="acme/tiny",
            missing="acme/none",
            secret="acme/secret",
        ),
    )
    online = (project.run("suites/online.yaml", "-v"), project.last_run("online"))

    project.write("suites/offline.yaml", suite("offline", newest="acme/tiny", other="acme/other"))
    write_checkpoint(folder / "other", num_hidden_layers=1)
    hub.add("acme/other", folder / "other")
    before = len(hub.requests)
    hub.silent_on = "/"
    silent = (project.run("suites/offline.yaml", "-v"), project.last_run("offline"))
    hub.silent_on = None
    probes = hub.requests[before:]

    project.hub = NOWHERE
    arguments = ("suites/offline.yaml", "-v", "--require-all")
    gone = (project.run(*arguments), project.last_run("offline"))
    return Runs(project, shas, online, silent, probes, gone)


def test_models_and_texts_of_the_hub_are_fetched_and_named_by_commit(runs: Runs) -> None:
    outcome, run = runs.online
    records = find_records(run)
    for model, sha in (("pinned", runs.shas[0]), ("newest", runs.shas[1])):
        record = records[f"{model}[fp32]::perplexity"]
        assert record.validity.status == "ok", outcome.text
        assert record.cell.revision == sha
        assert record.values["tokens"].value
    pinned, newest = (records[f"{m}[fp32]::perplexity"].cell for m in ("pinned", "newest"))
    assert pinned.weights_sha256 != newest.weights_sha256


def test_a_missing_or_private_model_fails_and_says_what_to_do(runs: Runs) -> None:
    outcome, run = runs.online
    for model, repo in (("missing", "acme/none"), ("secret", "acme/secret")):
        record = find_records(run)[f"{model}[fp32]::perplexity"]
        assert record.validity.status == "failed"
        assert record.validity.reasons == (
            f"{repo}: no such model on the hub, or private and no token given: "
            "check the id or set HF_TOKEN",
        )
    assert {node: r for node, r in outcome.results.items() if r != "PASSED"} == {
        f"suites/online.yaml::{model}[fp32]::{name}": "FAILED"
        for model in ("missing", "secret")
        for name in ("perplexity", "footprint")
    }
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    assert not outcome.shows_traceback, outcome.text


def test_a_silent_hub_is_asked_once_and_the_cache_answers(runs: Runs) -> None:
    outcome, run = runs.silent
    assert outcome.results == {
        "suites/offline.yaml::newest[fp32]::perplexity": "PASSED",
        "suites/offline.yaml::newest[fp32]::footprint": "PASSED",
        "suites/offline.yaml::other[fp32]::perplexity": "SKIPPED",
        "suites/offline.yaml::other[fp32]::footprint": "SKIPPED",
    }, outcome.text
    assert outcome.code == 0
    assert runs.probes == [("HEAD", "/")] or runs.probes == [("HEAD", "")]
    assert find_records(run)["newest[fp32]::perplexity"].cell.revision == runs.shas[1]
    reason = (
        "acme/other is not in the local cache and the hub cannot be reached "
        "(nor does the suite's folder hold a folder of that name)"
    )
    assert find_records(run)["other[fp32]::footprint"].validity.reasons == (reason,)
    assert reason in outcome.text


def test_where_all_is_required_what_cannot_be_had_fails(runs: Runs) -> None:
    outcome, run = runs.gone
    assert [r for node, r in outcome.results.items() if "other" in node] == ["FAILED", "FAILED"]
    assert [r for node, r in outcome.results.items() if "newest" in node] == ["PASSED", "PASSED"]
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    assert find_records(run)["other[fp32]::footprint"].validity.status == "skipped"


def test_with_a_token_a_private_model_is_measured_and_a_text_that_is_not_there_fails(
    runs: Runs, hub: Hub
) -> None:
    """The token appears nowhere in the run file."""
    project = Project(runs.project.folder, hub=hub.endpoint, variables={"HF_TOKEN": TOKEN})
    text = suite("token", secret="acme/secret").replace("acme/words", "acme/gone")
    project.write("suites/token.yaml", text)
    outcome = project.run("suites/token.yaml", "-v")
    assert outcome.results["suites/token.yaml::secret[fp32]::footprint"] == "PASSED", outcome.text
    record = find_records(project.last_run("token"))["secret[fp32]::perplexity"]
    assert record.validity.status == "failed"  # the hub answered: a mistake, not bad luck
    assert "no dataset 'acme/gone' on the hub" in record.validity.reasons[0]
    assert not outcome.shows_traceback, outcome.text
    assert TOKEN not in project.run_paths("token")[0].read_text()
