"""The calibration of --until-decided: nights end by the run's own rounds, and a bad rule shows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import harness.verdicts.looks

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from verdicts.until_decided import decide, judge_by_comparison, judge_by_limit, watch_until_decided


def test_a_candidate_that_is_as_fast_or_far_slower_is_decided_with_few_processes() -> None:
    rng = np.random.default_rng(1)
    for rule, harm, verdict in (
        (judge_by_limit, 0.0, "PASS"),
        (judge_by_limit, 0.15, "FAIL"),
        (judge_by_comparison, 0.10, "FAIL"),
    ):
        found = [decide(rng, harm, rule) for _ in range(8)]
        assert {one.last for one in found} == {verdict}
        assert all(3 <= one.processes <= 16 for one in found)
    shares = list(watch_until_decided(judge_by_comparison, 2, rng))
    assert all(share.what.startswith("until decided, ") for share in shares)


@pytest.mark.slow
def test_looking_again_and_again_without_an_allowance_would_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of candidates that are slower by exactly what is allowed."""

    def count(seed: int) -> int:
        rng = np.random.default_rng(seed)
        return sum(decide(rng, 0.03, judge_by_limit).last == "PASS" for _ in range(100))

    assert count(2) <= 100 * 0.05 + 3 * (100 * 0.05 * 0.95) ** 0.5
    monkeypatch.setattr(
        harness.verdicts.looks, "level_at_last_look", lambda level, fractions: level
    )
    assert count(2) >= 100 * 0.10
