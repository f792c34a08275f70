"""The most this device can do; no test judges how fast this machine is."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.timing import roofline
from harness.timing.roofline import (
    copy_bytes,
    last_level_cache_bytes,
    measure_bandwidth,
    measure_matmul_peak,
)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _measured_anew() -> None:
    measure_bandwidth.cache_clear()
    measure_matmul_peak.cache_clear()


def write_caches(folder: Path, **sizes: str) -> Path:
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "size").write_text(f"{size}\n")
    return folder


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"index0": "48K", "index2": "2048K", "index3": "32768K"}, 32 * MIB),
        ({"index0": "unknown"}, None),
        ({}, None),
    ],
)
def test_the_last_level_cache_is_the_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, str], expected: int | None
) -> None:
    monkeypatch.setattr(roofline, "CPU_CACHES", write_caches(tmp_path, **sizes))
    assert last_level_cache_bytes("cpu") == expected


@pytest.mark.parametrize(
    ("cache", "expected"), [("8192K", 32 * MIB), ("491520K", 1024 * MIB), ("unknown", 1024 * MIB)]
)
def test_a_copy_is_of_four_caches_or_of_a_gibibyte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, expected: int
) -> None:
    monkeypatch.setattr(roofline, "CPU_CACHES", write_caches(tmp_path, index3=cache))
    assert copy_bytes("cpu") == expected


def test_bandwidth_counts_what_is_read_and_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy of 1 GiB in half a second moves 2 GiB."""
    monkeypatch.setattr(roofline, "copy_bytes", lambda device: 1024 * MIB)
    monkeypatch.setattr(roofline, "time_copy", lambda device, size: size / (2 * 1024 * MIB))
    assert measure_bandwidth("cpu") == 4 * 1024 * MIB


def test_a_real_copy_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "CPU_CACHES", write_caches(tmp_path, index3="2048K"))
    found = measure_bandwidth("cpu")
    assert found is not None
    assert found > 0
    assert measure_bandwidth("cpu") == found


def test_without_room_for_the_copy_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "free_bytes", lambda device: 100 * MIB)
    monkeypatch.setattr(roofline, "copy_bytes", lambda device: 41 * MIB)
    assert measure_bandwidth("cpu") is None


def test_the_peak_is_the_best_of_sizes_that_grow_until_they_are_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def time_product(device: str, dtype: str, size: int) -> float:
        asked.append((dtype, size))
        return {512: 0.001, 1024: 0.021}[size]

    monkeypatch.setattr(roofline, "time_product", time_product)
    assert measure_matmul_peak("cpu", "float32") == pytest.approx(2 * 512**3 / 0.001)
    assert asked == [("float32", 512), ("float32", 1024)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_product_in_each_dtype(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "MATMUL_SIZES", {"cpu": (256,)})
    found = measure_matmul_peak("cpu", dtype)
    assert found is not None
    assert found > 0
    assert measure_matmul_peak("cpu", dtype) == found


def test_without_room_for_a_product_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "free_bytes", lambda device: 1 * MIB)
    assert measure_matmul_peak("cpu", "float32") is None
