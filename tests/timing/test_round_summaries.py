"""Speeds from given rounds, against sums done on paper."""

from __future__ import annotations

import numpy as np
import pytest

from harness.timing.rounds import summarise_device, summarise_rounds


def test_speeds_of_three_rounds() -> None:
    """Three rounds of N = 5 tokens; medians; TPOT over N - 1 = 4 gaps."""
    rounds = [
        [0.5, 0.6, 0.7, 0.8, 0.9],  # ttft 0.5, tpot 0.1
        [0.4, 0.5, 0.9, 1.0, 1.2],  # ttft 0.4, tpot 0.2
        [0.2, 0.3, 0.4, 0.5, 1.4],  # ttft 0.2, tpot 0.3
    ]
    # sorted: 0.1 eight times, 0.1, 0.2, 0.4, 0.9
    gaps = [0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.1, 0.2, 0.1, 0.1, 0.1, 0.9]
    found = summarise_rounds(rounds, batch=8, prompt_tokens=100)
    assert found == {
        "prefill_tokens_per_s": pytest.approx(8 * 100 / 0.4),
        "decode_tokens_per_s": pytest.approx(8 / 0.2),
        "ttft_s": pytest.approx(0.4),
        "tpot_s": pytest.approx(0.2),
        "itl_p50_s": pytest.approx(0.1),
        "itl_p90_s": pytest.approx(np.percentile(gaps, 90)),
        "itl_p99_s": None,
    }


def test_two_tokens_have_one_gap() -> None:
    assert summarise_rounds([[1.0, 1.25]], 1, 10)["tpot_s"] == pytest.approx(0.25)


@pytest.mark.parametrize(("gaps", "given"), [(999, False), (1000, True), (1500, True)])
def test_no_99th_percentile_from_fewer_than_a_thousand_gaps(gaps: int, given: bool) -> None:
    lengths = np.random.default_rng(0).exponential(size=gaps)
    ready = [1.0, *(1 + np.cumsum(lengths))]
    found = summarise_rounds([ready], 1, 1)["itl_p99_s"]
    assert (found is not None) is given
    if found is not None:
        assert found == pytest.approx(np.percentile(lengths, 99))


def test_device_times_of_three_rounds() -> None:
    """Seconds of the first and the last of four tokens by CUDA events."""
    assert summarise_device([(0.1, 0.7), (0.2, 0.5), (0.3, 3.3)], 4) == {
        "ttft_device_s": pytest.approx(0.2),
        "tpot_device_s": pytest.approx(0.2),
    }
    assert summarise_device([], 4) == {"ttft_device_s": None, "tpot_device_s": None}
