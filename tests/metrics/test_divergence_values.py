"""How divergence's values come from numbers per token: quarters, and spread over windows."""

from __future__ import annotations

import numpy as np
import pytest

from harness.metrics.divergence_values import find_quarters, summarise
from harness.metrics.text_windows import Window


def test_quarters_go_by_how_much_context_a_token_had() -> None:
    """Of a context of 8: tokens after 1 are in the first quarter, after 2 and 3 the second …"""
    assert find_quarters([Window(0, 8, 7)], 8).tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert find_quarters([Window(4, 12, 4), Window(8, 14, 2)], 8).tolist() == [2, 2, 3, 3, 2, 2]
    assert find_quarters([Window(0, 2, 1)], 2).tolist() == [2]
    assert find_quarters([Window(0, 5, 4)], 5).tolist() == [0, 1, 2, 3]


def test_standard_errors_are_over_windows() -> None:
    """Two windows of two tokens with means 1 and 3: 2 ± 1; of single tokens it would be 0.5774."""
    tokens = np.array([[1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 0.0, 0.0], [0.1, 0.1, -0.3, -0.3]])
    values, items = summarise(tokens, [Window(0, 3, 2), Window(3, 6, 2)], 4)
    assert (values["kl_mean"].value, values["kl_mean"].stderr) == (2.0, pytest.approx(1.0))
    assert values["kl_mean"].n == 2
    agreement = values["top1_agreement"]
    assert (agreement.value, agreement.stderr) == (0.5, pytest.approx(0.5))
    assert values["delta_p_mean"].value == pytest.approx(-0.1)
    rms = np.sqrt(0.05)
    assert values["delta_p_rms"].value == pytest.approx(rms)
    assert values["delta_p_rms"].stderr == pytest.approx(0.04 / (2 * rms))
    assert values["kl_p90"].value == 3.0
    assert items == {"chunk_kl": [2.0, 6.0], "chunk_agrees": [2, 0]}
    assert "kl_mean[q1]" not in values
    assert values["kl_mean[q2]"].value == 2.0
    alone, _ = summarise(tokens, [Window(0, 5, 4)], 4)
    assert alone["kl_mean"].stderr is None
