"""How long a warm-up and the rounds after it go on."""

from __future__ import annotations

from typing import Any

import pytest

from harness.timing import rounds as _rounds
from harness.timing.rounds import RoundOptions, has_settled, take_rounds, warm_up


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

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.rounds, self._seconds = 0.0, 0, seconds

    def perf_counter(self) -> float:
        return self.now

    def run(self) -> float:
        taken = self._seconds[min(self.rounds, len(self._seconds) - 1)]
        self.rounds += 1
        self.now += taken
        return taken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock:
    clock = Clock(request.param)
    monkeypatch.setattr(_rounds.time, "perf_counter", clock.perf_counter)
    return clock


def go_on(clock: Clock, **given: Any) -> tuple[int, int, bool]:
    """Rounds of the warm-up, rounds that count, and whether it settled."""
    options = RoundOptions(**given)
    settled = warm_up(clock.run, options)
    warmup = clock.rounds
    rounds = take_rounds(clock.run, options)
    assert len(rounds) == clock.rounds - warmup
    return warmup, len(rounds), settled


@pytest.mark.parametrize("clock", [[1.0]], indirect=True)
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
def test_how_long_it_goes_on(clock: Clock, given: dict[str, Any], warmup: int, rounds: int) -> None:
    assert go_on(clock, **given) == (warmup, rounds, warmup >= 4)


@pytest.mark.parametrize("clock", [[4.0, 3.0, 2.0, 1.9, 1.0, 1.0, 1.0, 1.0, 1.0]], indirect=True)
def test_a_warm_up_goes_on_until_it_settles(clock: Clock) -> None:
    warmup, _, settled = go_on(clock, warmup_s=6.0)
    assert settled
    assert warmup == 8  # the last six seconds hold four ones, and 1.9 in no half


@pytest.mark.parametrize("clock", [[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]], indirect=True)
def test_a_speed_that_never_settles_is_told(clock: Clock) -> None:
    assert go_on(clock, warmup_s=1.0)[2] is False


@pytest.mark.parametrize("clock", [[float(n) for n in range(1, 40)]], indirect=True)
def test_every_round_is_kept_in_order(clock: Clock) -> None:
    assert take_rounds(clock.run, RoundOptions(min_rounds=5, min_time_s=0.0)) == [1, 2, 3, 4, 5]
