"""The reference's stored distribution: kept exactly, read in parts, damage found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.scoring import distributions as _distributions
from harness.scoring.distributions import (
    DistributionWriter,
    Layout,
    StoredDistribution,
    find_damage,
)

FACTS = {"weights": "abc", "context": 8}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distributions"


def make_layout(states: torch.Tensor, vocabulary: int = 16, **fields: Any) -> Layout:
    given = {
        "kind": "states",
        "width": states.shape[1],
        "vocabulary": vocabulary,
        "dtype": str(states.dtype),
        "item_bytes": states.dtype.itemsize,
        "head_bytes": vocabulary * states.shape[1] * states.dtype.itemsize,
        "matmul": "highest",
        **fields,
    }
    return Layout(**given)


def make_states(rows: int = 10, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def store(
    states: torch.Tensor, parts: tuple[int, ...] = (), bias: bool = False, **facts: Any
) -> str:
    """Keep ``states``, handed over in parts of these sizes; returns the name."""
    weight = torch.linspace(-1, 1, 64).reshape(16, 4).to(states.dtype)
    with DistributionWriter(make_layout(states), len(states), FACTS | facts, "10 tokens") as writer:
        writer.keep_head(weight, torch.arange(16.0).to(states.dtype) if bias else None)
        for part in states.split(list(parts) or [len(states)]):
            writer.append(part)
        return writer.finish()[0]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three rows."""
    monkeypatch.setattr(_distributions, "_CHUNK_BYTES", 3 * 4 * 4)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("parts", [(10,), (1, 9), (3, 3, 4), (2, 2, 2, 2, 2), (4, 6)])
def test_rows_come_back_whatever_the_chunks(cache: Path, parts: tuple[int, ...]) -> None:
    states = make_states()
    name = store(states, parts)
    files = sorted(path.name for path in (cache / name).iterdir())
    chunks = [f"states-0000{i}.safetensors" for i in range(4)]
    assert files == ["head.safetensors", "manifest.json", *chunks]
    stored = StoredDistribution(name, "cpu")
    assert [chunk.rows for chunk in stored.manifest.chunks] == [3, 3, 3, 1]
    for start in range(10):
        for stop in range(start + 1, 11):
            assert torch.equal(stored.read_rows(start, stop), states[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_states_and_head_give_the_logits_again(dtype: torch.dtype, bias: bool) -> None:
    states = make_states(dtype=dtype)
    stored = StoredDistribution(store(states, bias=bias), "cpu")
    weight = torch.linspace(-1, 1, 64).reshape(16, 4).to(dtype)
    offset = torch.arange(16.0).to(dtype) if bias else None
    expected = torch.nn.functional.linear(states, weight, offset)
    found = stored.logits_of(stored.read_rows(0, 10))
    assert found.dtype is dtype
    assert torch.equal(found, expected)


def test_whole_logits_need_no_head() -> None:
    logits = make_states()
    layout = make_layout(logits, 4, kind="logits", head_bytes=0, reason="why")
    with DistributionWriter(layout, 10, FACTS, "10 tokens") as writer:
        writer.append(logits)
        name, size = writer.finish()
    assert size == pytest.approx(10 * 4 * 4, abs=200)
    stored = StoredDistribution(name, "cpu")
    assert stored.layout.reason == "why"
    assert torch.equal(stored.logits_of(stored.read_rows(2, 5)), logits[2:5])


def test_a_name_stands_for_what_determines_it_and_what_it_holds() -> None:
    states = make_states()
    name = store(states)
    assert store(states, (5, 5)) == name
    assert store(states, context=9)[:32] != name[:32]
    assert store(states + 1)[:32] == name[:32]
    assert store(states + 1) != name


def test_nothing_unfinished_stays(cache: Path) -> None:
    states = make_states()
    writer = DistributionWriter(make_layout(states), 10, FACTS, "10 tokens")
    with pytest.raises(KeyboardInterrupt), writer:  # noqa: PT012 - what the writer cleans up after
        writer.append(states)
        assert [path.name[0] for path in cache.iterdir()] == ["."]
        raise KeyboardInterrupt
    assert list(cache.iterdir()) == []


def test_what_is_kept_is_as_open_as_the_folder(cache: Path) -> None:
    """A cache shared by a group: safetensors itself lets only the owner read."""
    name = store(make_states())
    modes = {path.stat().st_mode & 0o777 for path in (cache / name).iterdir()}
    assert modes == {(cache / name).stat().st_mode & 0o666}


def cut(folder: Path) -> None:
    path = folder / "states-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = folder / "states-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def flip_head(folder: Path) -> None:
    path = folder / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "states-00000.safetensors").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1}')


def age(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))


def lose_all(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut, r"states-00000\.safetensors has 2\d\d of 2\d\d bytes"),
    (flip, r"states-00000\.safetensors is not what was written \(its SHA-256 differs\)"),
    (flip_head, r"head\.safetensors is not what was written"),
    (lose, r"states-00000\.safetensors cannot be read: No such file or directory"),
    (lose_manifest, "it is not there"),
    (spoil_manifest, r"its manifest\.json cannot be read"),
    (age, "its format is 0, expected 1"),
    (lose_all, "it is not there"),
]


@pytest.mark.parametrize(("spoil", "message"), DAMAGE)
def test_damage_is_found_told_and_mended(
    cache: Path, spoil: Callable[[Path], None], message: str
) -> None:
    states = make_states()
    name = store(states)
    assert find_damage(name) is None
    spoil(cache / name)
    found = find_damage(name)
    assert found is not None
    with pytest.raises(InputError, match=rf"distribution {name[:8]} is damaged or gone: {message}"):
        StoredDistribution(name, "cpu").read_rows(0, 1)
    assert store(states) == name
    assert find_damage(name) is None
    assert [path.name for path in cache.iterdir() if path.name[0] != "e"] == [name]


def test_a_name_from_elsewhere_is_not_looked_for() -> None:
    assert find_damage("../../x") == "'../../x' is no name of one"


def test_reading_counts_as_use(cache: Path) -> None:
    name = store(make_states())
    for use in (lambda: find_damage(name), lambda: StoredDistribution(name, "cpu").read_rows(0, 1)):
        os.utime(cache / name, (1, 1))
        use()
        assert (cache / name).stat().st_mtime > 1


def test_a_folder_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("no folder")
    with pytest.raises(
        InputError, match=rf"cannot keep .* in {cache}: .*set PRECISION_HARNESS_CAC"
    ):
        store(make_states())


def test_what_does_not_fit_is_refused_before_anything_is_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 rows of 4 numbers and a head of 16 x 4, 4 bytes each: 416 bytes."""
    states = make_states()
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", "416B")
    DistributionWriter(make_layout(states), 10, FACTS, "10 tokens")
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", "415B")
    with pytest.raises(InputError, match="distribution over 10 tokens takes 416 B, the cache may"):
        DistributionWriter(make_layout(states), 10, FACTS, "10 tokens")
    assert not cache.exists()
