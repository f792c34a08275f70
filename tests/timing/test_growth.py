"""What one generation takes, read while it runs, and what a larger batch would take by that."""

from __future__ import annotations

import pytest

from harness.engines.shared.meter import MemoryMeter
from harness.timing.growth import GrowthWatch
from tests.support.cells_in_process import load, write_llama

MIB = 1 << 20


@pytest.fixture(scope="module")
def meter(tmp_path_factory: pytest.TempPathFactory) -> MemoryMeter:
    return load(write_llama(tmp_path_factory.mktemp("growth"))).meter


def take(size: int) -> int:
    """Hold so many resident bytes for a moment."""
    return len(bytearray(b"x") * size)


def test_what_is_held_for_a_moment_is_read(meter: MemoryMeter) -> None:
    growth = GrowthWatch(meter, "cpu")
    assert growth.predict(4, 8) is None
    assert growth.watch(1, 8, lambda: take(64 * MIB)) == 64 * MIB
    assert growth.predict(4, 8) == pytest.approx(4 * 64 * MIB, rel=0.05)
    assert growth.predict(4, 16) is None  # of another prompt length nothing is known


def test_what_stays_is_not_taken_a_second_time(meter: MemoryMeter) -> None:
    growth, kept = GrowthWatch(meter, "cpu"), []

    def run() -> None:
        kept.append(bytearray(b"x") * (96 * MIB))
        take(32 * MIB)

    growth.watch(2, 8, run)
    assert growth.predict(4, 8) == pytest.approx(2 * 32 * MIB, rel=0.1)


def test_only_the_first_run_of_a_shape_is_watched(meter: MemoryMeter) -> None:
    growth = GrowthWatch(meter, "cpu")
    growth.watch(1, 8, lambda: take(32 * MIB))
    growth.watch(1, 8, lambda: take(128 * MIB))
    assert growth.predict(2, 8) == pytest.approx(2 * 32 * MIB, rel=0.05)


def test_two_batches_tell_what_does_not_grow(meter: MemoryMeter) -> None:
    """100 MiB whatever the batch and 8 MiB per sequence: 100 + 16 * 8 of a batch of 16."""
    growth = GrowthWatch(meter, "cpu")
    for batch in (1, 4):
        growth.watch(batch, 8, lambda: take((100 + 8 * batch) * MIB))  # noqa: B023
    assert growth.predict(16, 8) == pytest.approx(228 * MIB, rel=0.05)


def test_an_accelerator_refuses_by_itself(meter: MemoryMeter) -> None:
    growth = GrowthWatch(meter, "cuda:0")
    growth.settle()
    assert growth.watch(1, 8, lambda: take(MIB)) == MIB
    assert growth.predict(2, 8) is None
