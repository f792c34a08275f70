"""Largest context and batch, against sums done on paper."""

from __future__ import annotations

import pytest

from harness.machine.capacity import CARDS, Growth, fit_growth, largest_batch, largest_context

GB = 10**9


def test_the_cards_are_decimal_less_six_in_a_hundred() -> None:
    assert CARDS["16GB"] == 15_040_000_000  # a T4 has 14.56 GiB, 15.63e9 bytes, context included
    assert CARDS["24GB"] == pytest.approx(0.94 * 24 * GB)
    assert list(CARDS) == ["8GB", "16GB", "24GB", "40GB", "80GB", "141GB"]


def test_a_line_through_the_two_longest() -> None:
    """5000 and 200 per token beyond 256; the short one lies above the line and does not count."""
    grown = {512: 5000 + 512 * 200, 128: 50_000, 256: 5000 + 256 * 200}
    assert fit_growth(grown, least_slope=100) == Growth(5000, 200)


def test_a_parabola_where_attention_holds_a_matrix() -> None:
    grown = {n: 7000 + 30 * n + 2 * n * n for n in (16, 32, 64)}
    assert fit_growth(grown, least_slope=0, least_curve=1.5) == Growth(7000, 30, 2)
    two = {n: grown[n] for n in (32, 64)}
    assert fit_growth(two, least_slope=0, least_curve=2) == Growth(7000, 30, 2)
    straight = {n: 7000 + 300 * n for n in (16, 32, 64)}
    # 300 - 2 * (32 + 64) = 108 per token, and 7000 + 300 * 64 - 108 * 64 - 2 * 64² = 11096
    assert fit_growth(straight, least_slope=0, least_curve=2) == Growth(11_096, 108, 2)


def test_noise_brings_no_fit_below_what_must_be_held() -> None:
    assert fit_growth({32: 9000, 64: 8000}, least_slope=20) == Growth(6720, 20)
    assert fit_growth({32: 2000, 64: 6000}, least_slope=20) == Growth(0, 125)  # not -2000


@pytest.mark.parametrize("grown", [{}, {64: 8000}, {32: 8000, 64: 8000}])
def test_without_growth_there_is_no_fit(grown: dict[int, int]) -> None:
    assert fit_growth(grown, least_slope=0) is None


def test_the_largest_context() -> None:
    """An 8 B model in 16 bits: 16 GB of weights, 131,072 bytes of keys and values per token."""
    growth = Growth(0.5 * GB, 131_072)
    assert largest_context(8 * GB, growth, None) == 57_220  # 7.5e9 / 131,072 = 57,220.46
    assert largest_context(8 * GB, growth, 8192) == 8192
    assert largest_context(GB // 2, growth, 8192) == 0
    assert largest_context(-8 * GB, growth, 8192) == 0
    curved = Growth(1000, 10, 2)  # 2 n² + 10 n = 300: n = (sqrt(2500) - 10) / 4 = 10
    assert largest_context(1300, curved, None) == 10
    assert largest_context(1299, curved, None) == 9


def test_what_each_further_sequence_takes_is_no_part_of_what_all_share() -> None:
    """A quarter of a gigabyte of logits a sequence, seen between one and two of 100 tokens."""
    growth = Growth(0.3 * GB, 1_000_000).with_second(100, GB // 2, int(0.85 * GB))
    assert growth.each == pytest.approx(0.25 * GB)
    assert growth.shared == pytest.approx(0.05 * GB)
    # 0.05 GB are shared; 0.25 + 0.1 GB for each of 100 tokens: 7.95 / 0.35 = 22.7
    assert largest_batch(8 * GB, growth, 100, 0.0) == 22
    assert Growth(0.3 * GB, 1_000_000).with_second(100, GB, GB).each == 0


def test_the_largest_batch() -> None:
    """7.9 of 8 GB at 100 kB per token and 1000 tokens: 0.1 GB a sequence."""
    growth = Growth(0.1 * GB, 100_000)
    assert largest_batch(8 * GB, growth, 1000, 0.0) == 79
    assert largest_batch(8 * GB, growth, 1000, 0.2 * GB) == 39
    assert largest_batch(8 * GB, Growth(0.1 * GB, 50_000, 50), 1000, 0.0) == 79
    assert largest_batch(GB // 10, growth, 1000, 0.0) == 0
    assert largest_batch(-8 * GB, growth, 1000, 0.0) == 0
