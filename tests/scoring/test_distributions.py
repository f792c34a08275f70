"""The reference's stored distribution: kept exactly, read in parts, damage found."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from harness.engines.base import PlainHead
from harness.errors import InputError
from harness.scoring.distribution_folder import Layout, Manifest, read_manifest
from harness.scoring.distributions import DistributionWriter, StoredDistribution

FACTS = {"weights": "abc", "context": 8}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distributions"


def make_layout(rows: torch.Tensor, vocabulary: int = 16, **fields: Any) -> Layout:
    dtype = str(rows.dtype).removeprefix("torch.")
    given = {"kind": "states", "width": rows.shape[1], "dtype": dtype, "matmul": "highest"}
    return Layout(**given | {"vocabulary": vocabulary} | fields)


def make_states(rows: int = 10, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def make_head(dtype: torch.dtype = torch.float32, bias: bool = False) -> PlainHead:
    weight = torch.linspace(-1, 1, 64).reshape(16, 4).to(dtype)
    offset = torch.arange(16.0).to(dtype) if bias else None
    return PlainHead(weight, offset, lambda inputs, positions: inputs)


def write(states: torch.Tensor, head: PlainHead, **facts: Any) -> DistributionWriter:
    return DistributionWriter(make_layout(states), len(states), head, FACTS | facts, "10 tokens")


def store(
    states: torch.Tensor, parts: tuple[int, ...] = (), bias: bool = False, **facts: Any
) -> str:
    """Keep ``states``, handed over in parts of these sizes; returns the name."""
    with write(states, make_head(states.dtype, bias), **facts) as writer:
        for part in states.split(list(parts) or [len(states)]):
            writer.append(part)
        return writer.finish()[0]


def test_a_disk_that_takes_no_more_is_explained_and_leaves_nothing(cache: Path) -> None:
    states = make_states(4000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = write(states, make_head())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(InputError, match="File too large"), writer:
            writer.append(states)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("parts", [(10,), (1, 9), (2, 2, 2, 2, 2)])
def test_rows_come_back_however_they_were_handed_over(cache: Path, parts: tuple[int, ...]) -> None:
    states = make_states()
    name = store(states, parts)
    files = sorted(path.name for path in (cache / name).iterdir())
    assert files == ["head.safetensors", "manifest.json", "rows.safetensors"]
    stored = StoredDistribution(name, "cpu")
    for start in range(10):
        for stop in range(start + 1, 11):
            assert torch.equal(stored.read_rows(start, stop), states[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_rows_are_a_file_as_safetensors_writes_it(cache: Path, dtype: torch.dtype) -> None:
    states = make_states(dtype=dtype)
    written = (cache / store(states) / "rows.safetensors").read_bytes()
    assert written == save({"states": states})


def test_rows_of_a_view_on_the_device_are_kept(cache: Path) -> None:
    """Neither a part of a larger tensor nor one of inference mode is kept as something else."""
    with torch.inference_mode():
        wide = torch.arange(80.0).reshape(10, 8)
        part = wide[:, ::2]
    assert torch.equal(StoredDistribution(store(part), "cpu").read_rows(0, 10), part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_states_and_head_give_the_logits_again(dtype: torch.dtype, bias: bool) -> None:
    states = make_states(dtype=dtype)
    stored = StoredDistribution(store(states, bias=bias), "cpu")
    head = make_head(dtype, bias)
    expected = torch.nn.functional.linear(states, head.weight, head.bias)
    found = stored.logits_of(stored.read_rows(0, 10))
    assert found.dtype is dtype
    assert torch.equal(found, expected)


def test_whole_logits_need_no_head() -> None:
    logits = make_states()
    layout = make_layout(logits, 4, kind="logits", reason="why")
    with DistributionWriter(layout, 10, None, FACTS, "10 tokens") as writer:
        writer.append(logits)
        name, size = writer.finish()
    assert size == pytest.approx(10 * 4 * 4, abs=200)
    stored = StoredDistribution(name, "cpu")
    assert stored.layout.reason == "why"
    assert torch.equal(stored.logits_of(stored.read_rows(2, 5)), logits[2:5])


def test_a_name_is_made_of_what_determines_it_and_what_it_holds() -> None:
    states = make_states()
    name = store(states)
    assert store(states, (5, 5)) == name
    assert store(states, context=9)[:32] != name[:32]
    assert store(states + 1)[:32] == name[:32]
    assert store(states + 1) != name


def test_nothing_unfinished_stays(cache: Path) -> None:
    states = make_states()
    writer = write(states, make_head())
    with pytest.raises(KeyboardInterrupt), writer:  # noqa: PT012 - what the writer cleans up after
        writer.append(states)
        assert [path.name[0] for path in cache.iterdir()] == ["."]
        raise KeyboardInterrupt
    assert list(cache.iterdir()) == []


def test_files_are_as_open_as_the_folder(cache: Path) -> None:
    """A cache shared by a group: safetensors itself lets only the owner read."""
    name = store(make_states())
    modes = {path.stat().st_mode & 0o777 for path in (cache / name).iterdir()}
    assert modes == {(cache / name).stat().st_mode & 0o666}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def spoil_manifest(path: Path) -> None:
    (path.parent / "manifest.json").write_text('{"format": 1}')


def lose_all(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


CHANGED = "its SHA-256 is not that of what was written"
DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("rows", cut, CHANGED),
    ("rows", flip, CHANGED),
    ("head", flip, CHANGED),
    ("rows", Path.unlink, r"rows\.safetensors: No such file or directory"),
    ("head", Path.unlink, r"head\.safetensors: No such file or directory"),
    ("rows", spoil_manifest, r"its manifest\.json is not a manifest of format 2"),
    ("rows", lose_all, r"manifest\.json: No such file or directory"),
]


@pytest.mark.parametrize(("file", "spoil", "message"), DAMAGE)
def test_damage_is_found_reported_and_repaired(
    cache: Path, file: str, spoil: Callable[[Path], None], message: str
) -> None:
    states = make_states()
    name = store(states)
    assert isinstance(read_manifest(name), Manifest)
    spoil(cache / name / f"{file}.safetensors")
    assert re.fullmatch(message, str(read_manifest(name)))
    with pytest.raises(InputError, match=rf"distribution {name[:8]} is damaged or gone: {message}"):
        StoredDistribution(name, "cpu")
    assert store(states) == name
    assert isinstance(read_manifest(name), Manifest)
    assert [path.name for path in cache.iterdir() if path.name[0] != "e"] == [name]


def test_a_name_that_is_a_path_is_refused() -> None:
    assert read_manifest("../../x") == "'../../x' is not a name of one"


def test_reading_counts_as_use(cache: Path) -> None:
    name = store(make_states())
    for use in (
        lambda: read_manifest(name),
        lambda: StoredDistribution(name, "cpu").read_rows(0, 1),
    ):
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
    write(states, make_head())
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", "415B")
    with pytest.raises(InputError, match="distribution over 10 tokens takes 416 B, the cache may"):
        write(states, make_head())
    assert not cache.exists()
