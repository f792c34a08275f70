"""References: a stored record is used only where nothing that matters has changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_measurement
from harness.run.references import find_reference, hash_tree, keep_reference, reference_key
from harness.suite.models import MeasurementSpec
from tests.support.records import make_record

CELL = {
    "model": {"source": "a/b"},
    "weights": "w1",
    "tokenizer": "t1",
    "precision": {"name": "fp32", "use": "fp32", "options": {}},
    "device": ["cpu", None],
}
ENVIRONMENT = {
    "libraries": {"torch": "2.13.0", "transformers": "5.23"},
    "variables": {"OMP_NUM_THREADS": "1"},
    "harness": {"version": "0.1", "sources_sha256": "s"},
    "python": {"version": "3.11"},
    "torch": {"threads": 2},
    "cpu": {"name": "x", "load": 0.5},
    "git": {"sha": "abc", "dirty": False},
    "memory": {"available": 1},
}
COMMIT = "b08601e04326c79dfdd32d625aee71d232d685c3"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("a text")
    (tmp_path / "data" / "dev").mkdir(parents=True)
    (tmp_path / "data" / "dev" / "a.csv").write_text("a")
    return tmp_path


def spec(name: str, **options: Any) -> MeasurementSpec:
    return MeasurementSpec(name=name, options=load_measurement(name).options(**options))


def perplexity(**options: Any) -> MeasurementSpec:
    return spec("perplexity", **{"text": {"path": "text.txt"}, "context": 8, **options})


def changed(facts: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    facts = copy.deepcopy(facts)
    place: Any = facts
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return facts


def test_the_same_has_the_same_key_whatever_the_order(folder: Path) -> None:
    key = reference_key(CELL, perplexity(), folder, ENVIRONMENT)
    assert key is not None
    turned = dict(reversed(CELL.items())), dict(reversed(ENVIRONMENT.items()))
    assert reference_key(turned[0], perplexity(), folder, turned[1]) == key


@pytest.mark.parametrize(
    "path",
    [
        *[("weights",), ("tokenizer",), ("model", "source"), ("device", 0), ("device", 1)],
        ("precision", "options"),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_the_key_changes_with_the_cell(folder: Path, path: tuple[Any, ...]) -> None:
    other = changed(CELL, *path, to="other")
    assert reference_key(other, perplexity(), folder, ENVIRONMENT) != reference_key(
        CELL, perplexity(), folder, ENVIRONMENT
    )


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        (("libraries", "torch"), True),
        (("libraries", "transformers"), True),
        (("variables", "OMP_NUM_THREADS"), True),
        (("harness", "sources_sha256"), True),
        (("python", "version"), True),
        (("torch", "threads"), True),
        (("cpu", "name"), True),
        (("cpu", "load"), False),
        (("git", "sha"), False),
        (("memory", "available"), False),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_the_key_changes_with_what_matters_of_the_environment(
    folder: Path, path: tuple[str, ...], matters: bool
) -> None:
    other = changed(ENVIRONMENT, *path, to="other")
    key = reference_key(CELL, perplexity(), folder, ENVIRONMENT)
    assert (reference_key(CELL, perplexity(), folder, other) != key) is matters


def test_the_key_changes_with_the_options(folder: Path) -> None:
    given = [{}, {"context": 9}, {"stride": 2}, {"protocol": "disjoint"}]
    keys = {reference_key(CELL, perplexity(**o), folder, ENVIRONMENT) for o in given}
    keys.add(reference_key(CELL, spec("footprint"), folder, ENVIRONMENT))
    assert len(keys) == len(given) + 1


def test_the_key_changes_with_the_content_of_a_text(folder: Path) -> None:
    before = reference_key(CELL, perplexity(), folder, ENVIRONMENT)
    (folder / "text.txt").write_text("a test")
    after = reference_key(CELL, perplexity(), folder, ENVIRONMENT)
    assert after != before
    (folder / "text.txt").write_text("a text")
    assert reference_key(CELL, perplexity(), folder, ENVIRONMENT) == before


def test_the_key_changes_with_any_file_of_a_data_folder(folder: Path) -> None:
    def key() -> str | None:
        return reference_key(CELL, spec("mmlu", data={"path": "data"}), folder, ENVIRONMENT)

    keys = [key()]
    (folder / "data" / "dev" / "a.csv").write_text("b")
    keys.append(key())
    (folder / "data" / "dev" / "b.csv").write_text("")
    keys.append(key())
    (folder / "data" / "dev" / "b.csv").rename(folder / "data" / "dev" / "c.csv")
    keys.append(key())
    assert len(set(keys)) == 4


def test_a_tree_s_hash_tells_names_from_contents(folder: Path) -> None:
    for name, content in (("one", "x"), ("two", "y")):
        (folder / name).mkdir()
        (folder / name / content).write_text("xy".replace(content, ""))
    assert hash_tree(folder / "one") != hash_tree(folder / "two")
    (folder / "copy.txt").write_bytes((folder / "text.txt").read_bytes())
    assert hash_tree(folder / "copy.txt") == hash_tree(folder / "text.txt")


@pytest.mark.parametrize(
    ("revision", "reusable"),
    [(COMMIT, True), (COMMIT[:7], True), (None, False), ("main", False), ("v1.0", False)],
)
def test_hub_data_is_reused_only_where_it_is_pinned_to_a_commit(
    folder: Path, revision: str | None, reusable: bool
) -> None:
    measurement = perplexity(text={"path": "org/text", "revision": revision})
    assert (reference_key(CELL, measurement, folder, ENVIRONMENT) is not None) is reusable


def test_two_commits_have_two_keys(folder: Path) -> None:
    keys = {
        reference_key(
            CELL, perplexity(text={"path": "org/text", "revision": r}), folder, ENVIRONMENT
        )
        for r in (COMMIT, COMMIT[::-1])
    }
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("name", "reusable"),
    [("throughput", False), ("memory", True), ("footprint", True)],
)
def test_timings_are_never_reused(folder: Path, name: str, reusable: bool) -> None:
    assert (reference_key(CELL, spec(name), folder, ENVIRONMENT) is not None) is reusable


# The store

RECORD = make_record("perplexity", values={"ppl": 2.5}, protocol={"context": 8})


def test_a_kept_record_is_found_and_says_which_run_it_is_from() -> None:
    assert find_reference("k") is None
    keep_reference("k", RECORD, "s/run-1")
    assert find_reference("k") == RECORD.model_copy(update={"reused_from": "s/run-1"})
    assert find_reference("other") is None
    keep_reference("k", RECORD, "s/run-2")
    found = find_reference("k")
    assert found is not None
    assert found.reused_from == "s/run-2"


def test_without_a_key_nothing_is_kept_or_found(cache: Path) -> None:
    keep_reference(None, RECORD, "r")
    assert find_reference(None) is None
    assert not cache.exists()


@pytest.mark.parametrize("status", ["flagged", "invalid", "failed", "skipped"])
def test_only_sound_records_are_kept(status: str) -> None:
    keep_reference("k", make_record("perplexity", status=status), "r")
    assert find_reference("k") is None


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1]", b"\xff"])
def test_a_corrupt_entry_counts_as_none_and_is_replaced(cache: Path, content: bytes) -> None:
    keep_reference("k", RECORD, "r")
    [entry] = (cache / "references").iterdir()
    entry.write_bytes(content)
    assert find_reference("k") is None
    keep_reference("k", RECORD, "r")
    assert find_reference("k") is not None
    assert list((cache / "references").iterdir()) == [entry]


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    keep_reference("k", RECORD, "r")
    assert find_reference("k") is None
