"""The mean over chunks of unequal size, and its standard error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.statistics.estimates import clustered_mean


def test_clustered_mean_by_hand() -> None:
    """mean 12/6 = 2; residuals 1, -2, 1; SE = sqrt(6 * 3/2) / 6 = 0.5."""
    assert clustered_mean([3.0, 2.0, 7.0], [1, 2, 3]) == (2.0, 0.5)


def test_a_single_chunk_has_no_spread() -> None:
    assert clustered_mean([6.0], [3]) == (2.0, None)
    assert clustered_mean([6.0, 6.0], [3, 3]) == (2.0, 0.0)


def test_chunks_of_one_size_give_the_standard_error_of_their_means() -> None:
    means = np.random.default_rng(0).normal(3, 0.4, 40)
    mean, stderr = clustered_mean(list(means * 16), [16] * 40)
    assert mean == pytest.approx(means.mean())
    assert stderr == pytest.approx(stats.sem(means), rel=1e-12)


def test_the_spread_of_unequal_chunks_agrees_with_a_bootstrap() -> None:
    random = np.random.default_rng(1)
    counts = random.integers(5, 60, 400)
    sums = counts * random.normal(3, 0.5, 400)

    def ratio(s: Any, c: Any, axis: int = -1) -> Any:
        return s.sum(axis) / c.sum(axis)

    resampled = stats.bootstrap(
        (sums, counts), ratio, paired=True, n_resamples=2000, method="basic", rng=random
    )
    _, stderr = clustered_mean(list(sums), [int(c) for c in counts])
    assert stderr == pytest.approx(resampled.standard_error, rel=0.08)
