"""Nights: what three of them say of a speed, and what they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from harness.statistics.estimates import Processes
from harness.statistics.nights import (
    Blessed,
    Nights,
    compare_with_blessed,
    find_nights,
    learn_nights,
    merge_runs,
)


def speed(runs: Sequence[float], spread: float | None = 0.01, processes: int = 3) -> Blessed:
    named = {f"run {i}": value for i, value in enumerate(runs)}
    return Blessed(float(np.mean(runs)), spread, processes * len(runs), named)


def test_a_run_at_most_twelve_hours_after_another_is_of_its_night() -> None:
    times = [
        "2026-01-01T14:00:00+00:00",
        "2026-01-01T02:00:00+00:00",
        "2026-01-02T02:00:01+00:00",  # twelve hours and a second later
        "2026-01-02T03:00:01+01:00",  # the same moment elsewhere
    ]
    night, other = times[1], times[2]
    assert find_nights(times) == [night, night, other, other]
    assert find_nights([]) == []
    with pytest.raises(ValueError, match="yesterday"):
        find_nights(["yesterday"])


def test_runs_of_a_night_make_one_sample_of_processes_as_if_never_apart() -> None:
    logs = [[0.01, 0.03, 0.02], [-0.02, 0.0, 0.01]]
    runs = [Processes(math.exp(np.mean(x)), float(np.std(x, ddof=1)), 3) for x in logs]
    merged, every = merge_runs(runs), np.ravel(logs)
    assert (math.log(merged.mean), merged.n) == (pytest.approx(every.mean()), 6)
    assert merged.spread == pytest.approx(every.std(ddof=1))
    assert merge_runs(runs[:1]) == runs[0]


def test_three_nights_of_one_speed_by_hand() -> None:
    """-1 %, 0, 1 %: s = 1 %, SE = 1 %·sqrt(4/3), t(0.95, 2) = 2.919986."""
    found = compare_with_blessed(
        speed([-0.01, 0.0, 0.01]), Processes(0.95, 0.01, 3), Nights(), 0.98
    )
    stderr = 0.01 * math.sqrt(4 / 3)
    assert (found.stderr, found.df, found.allowance) == (pytest.approx(stderr), 2, 0.0)
    assert found.estimate == pytest.approx(math.log(0.95))
    assert found.upper - found.estimate == pytest.approx(2.919986 * stderr, rel=1e-5)


def test_fewer_processes_than_on_the_blessed_nights_add_their_luck_by_hand() -> None:
    """One process of 1 % instead of three: 1 - 1/3 of its variance more."""
    one, three = (
        compare_with_blessed(speed([-0.01, 0.0, 0.01]), Processes(1.0, spread, n), Nights(), 0.98)
        for spread, n in ((None, 1), (0.01, 3))
    )
    assert one.stderr**2 - three.stderr**2 == pytest.approx(0.01**2 * (1 - 1 / 3))


def test_what_all_speeds_of_a_night_share_is_told_apart() -> None:
    """Shared: -2, 0, 2 %, of three nights; each speed's own: 0.2 %, moderated over forty."""
    rng = np.random.default_rng(0)
    shifts = np.array([-0.02, 0.0, 0.02])
    rows = [speed((shifts + rng.normal(0, 0.002, 3)).tolist(), 0.002) for _ in range(40)]
    nights = learn_nights(rows)
    assert math.sqrt(nights.shared) == pytest.approx(0.02, rel=0.05)
    assert math.sqrt(nights.own.variance) == pytest.approx(0.002, rel=0.2)
    found = compare_with_blessed(rows[0], Processes(0.95, 0.002, 3), nights, 0.98)
    # t(0.98, 2) = 4.848732, of sqrt(4/3) nights.
    assert found.allowance == pytest.approx(4.848732 * math.sqrt(nights.shared * 4 / 3), rel=1e-5)
    assert found.df > 20
    assert found.lower < math.log(0.95) - 0.05


def test_nights_that_share_nothing_leave_no_allowance_to_speak_of() -> None:
    rng = np.random.default_rng(1)
    rows = [speed(rng.normal(0, 0.01, 3).tolist()) for _ in range(60)]
    nights = learn_nights(rows)
    assert math.sqrt(nights.shared) < 0.002
    assert math.sqrt(nights.own.variance) == pytest.approx(0.01, rel=0.25)


def test_a_night_with_a_process_far_off_is_judged_by_its_own_spread() -> None:
    rng = np.random.default_rng(2)
    rows = [speed(rng.normal(0, 0.005, 3).tolist(), 0.01) for _ in range(60)]
    nights = learn_nights([*rows])
    steady, odd = (
        compare_with_blessed(rows[0], Processes(0.95, spread, 3), nights, 0.98)
        for spread in (0.012, 0.12)
    )
    assert odd.stderr > 5 * steady.stderr
    assert odd.stderr**2 - steady.stderr**2 == pytest.approx((0.12**2 - 0.01**2) / 3, rel=0.02)


def test_two_nights_are_judged_by_their_processes_alone_and_none_raises() -> None:
    found = compare_with_blessed(speed([0.0, 0.05]), Processes(1.0, 0.01, 3), Nights(), 0.98)
    assert found.stderr == pytest.approx(0.01 * math.sqrt(1 / 6 + 1 / 3))
    with pytest.raises(ValueError, match="no spread between processes"):
        compare_with_blessed(speed([0.0], None, 1), Processes(1.0, None, 1), Nights(), 0.98)


def test_of_fewer_than_five_speeds_nothing_is_shared() -> None:
    rows = [speed([-0.02, 0.0, 0.02]) for _ in range(4)]
    assert learn_nights(rows).shared == 0.0
    assert learn_nights(rows).own.df == 0
