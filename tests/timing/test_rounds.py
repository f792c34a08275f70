"""How long a warm-up and the rounds after it go on, on a simulated clock."""

from __future__ import annotations

from typing import Any

import pytest

from harness.timing.rounds import RoundLimits, has_settled, take_rounds, warm_up


@pytest.mark.parametrize(
    ("seconds", "settled"),
    [
        ([], False),
        ([1.0, 1.0, 1.0], False),  # a half-window of one round says nothing
        ([1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0195, 1.0195], True),
        ([1.0, 1.0, 1.0205, 1.0205], False),
        ([1.0, 1.0, 0.9805, 0.9805], True),
        ([1.0, 1.0, 0.9795, 0.9795], False),
        ([9.0, 1.0, 1.0, 1.0, 1.0], True),  # five rounds: the oldest belongs to no half
        ([9.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),  # within six seconds, but for the slow one
        ([1.5, 1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([1.01, 0.99, 1.03, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0, 0.95, 0.95, 0.95], False),
        ([9.0, 9.0, 9.0, 9.0], True),  # rounds longer than the window: four of them
        ([9.0, 9.0, 9.0, 8.0], False),
    ],
)
def test_settled_means_that_the_last_two_halves_agree_to_two_percent(
    seconds: list[float], settled: bool
) -> None:
    assert has_settled(seconds, 6.0) is settled


class Clock:
    """Seconds that pass with each round, instead of those of this machine."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.rounds, self._seconds = 0.0, 0, seconds

    def __call__(self) -> float:
        return self.now

    def run(self) -> float:
        """One round; the last length repeats."""
        taken = self._seconds[min(self.rounds, len(self._seconds) - 1)]
        self.rounds += 1
        self.now += taken
        return taken


def make_limits(**given: Any) -> RoundLimits:
    defaults = {"min_rounds": 10, "min_time_s": 5.0, "max_time_s": 30.0, "warmup_s": 2.0}
    return RoundLimits(**{**defaults, **given})


@pytest.mark.parametrize(
    ("given", "warmup", "rounds"),
    [
        ({"warmup_s": 2.0}, 4, 10),  # four rounds are the fewest that can agree
        ({"warmup_s": 6.0}, 6, 10),
        ({"warmup_s": 1.0}, 3, 10),  # three times its length
        ({"warmup_s": 6.0, "min_rounds": 3}, 6, 5),  # five seconds
        ({"warmup_s": 6.0, "min_rounds": 3, "min_time_s": 0.0}, 6, 3),
        ({"warmup_s": 6.0, "min_time_s": 25.0}, 6, 25),
        ({"warmup_s": 6.0, "min_rounds": 50}, 6, 30),  # max_time_s
        ({"warmup_s": 6.0, "max_time_s": 0.0}, 6, 3),
    ],
)
def test_how_long_it_goes_on(given: dict[str, Any], warmup: int, rounds: int) -> None:
    """With rounds of one second."""
    clock, limits = Clock(1.0), make_limits(**given)
    assert warm_up(clock.run, limits, clock) is (warmup >= 4)
    assert clock.rounds == warmup
    assert len(take_rounds(clock.run, limits, clock)) == rounds
    assert clock.rounds == warmup + rounds


def test_a_warm_up_goes_on_until_it_settles() -> None:
    clock = Clock(4.0, 3.0, 2.0, 1.9, 1.0)
    assert warm_up(clock.run, make_limits(warmup_s=6.0), clock)
    assert clock.rounds == 8  # the last six seconds hold four ones, and 1.9 in no half


def test_a_speed_that_never_settles_is_reported() -> None:
    clock = Clock(1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    assert not warm_up(clock.run, make_limits(warmup_s=1.0), clock)


def test_every_round_is_kept_in_order() -> None:
    clock = Clock(*range(1, 40))
    limits = make_limits(min_rounds=5, min_time_s=0.0)
    assert take_rounds(clock.run, limits, clock) == [1, 2, 3, 4, 5]
