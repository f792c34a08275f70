"""The cache folder: what is in it, what is removed first when it is full, and what stays."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.machine import cache
from harness.machine.cache import clear, format_bytes, limit_bytes, list_entries, make_room, remove

HOUR = 3600


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PRECISION_HARNESS_CACHE_LIMIT", raising=False)
    return tmp_path / "cache"


def put(folder: Path, name: str, size: int, age_s: float = 2 * HOUR) -> Path:
    """A file, or a folder with two, last used ``age_s`` ago."""
    path = folder / name
    then = time.time() - age_s
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path]
    if path.parent.name == "distributions":
        path.mkdir()
        files = [path / "a", path / "b"]
    for file in files:
        file.write_bytes(b"x" * (size // len(files)))
        os.utime(file, (then, then))
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/*")}


def test_everything_is_listed_the_longest_unused_first(folder: Path) -> None:
    put(folder, "distributions/new", 10, 60)
    put(folder, "references/old.json", 3, 5 * HOUR)
    put(folder, "questions/.q.gz.12", 7, 3 * HOUR)
    found = [(e.kind, e.path.name, e.bytes, e.unfinished, e.in_use) for e in list_entries()]
    assert found == [
        ("references", "old.json", 3, False, False),
        ("questions", ".q.gz.12", 7, True, False),
        ("distributions", "new", 10, False, True),
    ]


def test_a_folder_that_is_not_there_holds_nothing() -> None:
    assert list_entries() == []
    assert clear() == ([], [])


def test_a_part_that_is_used_makes_the_whole_used(folder: Path) -> None:
    os.utime(put(folder, "distributions/d", 10, 9 * HOUR) / "b")
    assert list_entries()[0].in_use


@pytest.mark.parametrize(
    ("given", "limit"), [("50GiB", 50 << 30), ("1.5 GB", 1_500_000_000), ("", 20 << 30)]
)
def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, given: str, limit: int) -> None:
    assert limit_bytes() == 20 << 30
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", given)
    assert limit_bytes() == limit


@pytest.mark.parametrize("given", ["50", "50 giga", "-1GiB", "0GiB"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", given)
    with pytest.raises(InputError, match=f"PRECISION_HARNESS_CACHE_LIMIT={given}: "):
        limit_bytes()


def fill(folder: Path) -> None:
    """50 bytes: a record, questions, two distributions and the remains of a third."""
    put(folder, "references/oldest.json", 10, 9 * HOUR)
    put(folder, "distributions/.dead", 10, 8 * HOUR)
    put(folder, "questions/old.gz", 10, 7 * HOUR)
    put(folder, "distributions/older", 10, 6 * HOUR)
    put(folder, "distributions/fresh", 10, HOUR - 60)


@pytest.mark.parametrize(
    ("needed", "gone"),
    [
        (50, set()),
        (51, {".dead"}),
        (60, {".dead"}),
        (61, {".dead", "older"}),
        # Used within the last hour: it stays, and the limit is passed. Small kinds stay always.
        (100, {".dead", "older"}),
    ],
)
def test_the_longest_unused_goes_first_until_there_is_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch, needed: int, gone: set[str]
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", "100B")
    fill(folder)
    before = names(folder)
    make_room(needed, "it", "advice")
    assert before - names(folder) == gone


def test_what_alone_is_larger_than_the_limit_removes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", "100B")
    fill(folder)
    before = names(folder)
    message = (
        "it takes 101 B, the cache may hold 100 B: do less, or set "
        "PRECISION_HARNESS_CACHE_LIMIT=1GiB"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        make_room(101, "it", "do less")
    assert names(folder) == before


def test_a_full_disk_makes_room_and_refuses_where_that_is_not_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of 60 bytes that holds nothing else."""
    fill(folder)

    class Usage:
        @property
        def free(self) -> int:
            return 60 - sum(entry.bytes for entry in list_entries())

    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: Usage())
    make_room(10, "it", "do less")
    assert {".dead", "old.gz", "older"} <= names(folder)
    make_room(11, "it", "do less")
    assert ".dead" not in names(folder)
    with pytest.raises(
        InputError, match=rf"the disk of {folder} has 30 B left: do less, see `harn"
    ):
        make_room(41, "it", "do less")
    assert "fresh" in names(folder)


def test_all_or_one_kind_is_cleared_except_what_is_being_written(folder: Path) -> None:
    fill(folder)
    put(folder, "distributions/.writing", 4, 10)
    removed, _ = clear(["questions"])
    assert [entry.path.name for entry in removed] == ["old.gz"]
    removed, written = clear()
    assert [entry.path.name for entry in written] == [".writing"]
    assert sum(entry.bytes for entry in removed) == 40
    assert names(folder) == {".writing"}


def test_a_reader_keeps_reading_what_is_removed(folder: Path) -> None:
    path = put(folder, "distributions/d", 10)
    with (path / "a").open("rb") as file:
        assert remove(path)
        assert file.read() == b"xxxxx"
    assert list(path.parent.iterdir()) == []


def test_what_another_process_removed_is_no_error(folder: Path) -> None:
    path = put(folder, "questions/q.gz", 10)
    assert remove(path)
    assert not remove(path)
    assert not remove(folder / "nowhere" / "x")


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1023 << 20, "1023 MiB"),
        (3_650_722_202, "3.4 GiB"),
        (37 << 40, "37 TiB"),
    ],
)
def test_sizes_have_three_digits(number: int, shown: str) -> None:
    assert format_bytes(number) == shown
