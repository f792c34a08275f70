"""How long a warm-up and the rounds after it go on, on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.metrics.throughput import Options
from harness.suite.read import load_suite
from harness.timing.rounds import RoundLimits, has_settled, take_rounds, warm_up
from tests.support.projects import ROOT


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
        ({"warmup_s": 0.0}, 4, 10),
        ({"warmup_s": 6.0}, 6, 10),
        ({"warmup_s": 6.0, "min_rounds": 3}, 6, 5),  # five seconds
        ({"warmup_s": 6.0, "min_rounds": 3, "min_time_s": 0.0}, 6, 3),
        ({"warmup_s": 6.0, "min_time_s": 25.0}, 6, 25),
        ({"warmup_s": 6.0, "min_rounds": 50}, 6, 30),  # max_time_s
        ({"warmup_s": 6.0, "max_time_s": 0.0}, 6, 3),
    ],
)
@pytest.mark.parametrize("first", [1.0, 20.0])
def test_how_long_it_goes_on(given: dict[str, Any], warmup: int, rounds: int, first: float) -> None:
    """With rounds of one second after the first, whose time counts for nothing."""
    clock, limits = Clock(first, 1.0), make_limits(**given)
    assert warm_up(clock.run, limits, clock)
    assert clock.rounds == 1 + warmup
    assert len(take_rounds(clock.run, limits, clock)) == rounds
    assert clock.rounds == 1 + warmup + rounds


def test_a_warm_up_goes_on_until_it_settles() -> None:
    clock = Clock(9.0, 4.0, 3.0, 2.0, 1.9, 1.0)
    assert warm_up(clock.run, make_limits(warmup_s=6.0), clock)
    assert clock.rounds == 9  # the last six seconds hold four ones, and 1.9 in no half


@pytest.mark.parametrize(
    ("lengths", "warmup_s", "rounds"),
    [
        ([2.0**n for n in range(20)], 1.0, 8),  # three times its length is over in the second
        ([1.1**n for n in range(40)], 6.0, 11),  # 18 s, of which eight rounds take 11.4
    ],
)
def test_a_speed_that_never_settles_is_reported(
    lengths: list[float], warmup_s: float, rounds: int
) -> None:
    clock = Clock(1.0, *lengths)
    assert not warm_up(clock.run, make_limits(warmup_s=warmup_s), clock)
    assert clock.rounds == 1 + rounds


def list_shipped() -> dict[str, Options]:
    """The throughput options of every shipped suite that measures it, by the suite's name."""
    found = {}
    for path in sorted((ROOT / "suites").glob("*.yaml")):
        suite = load_suite(path, ROOT)
        for measurement in suite.measurements:
            if measurement.name == "throughput":
                found[path.stem] = measurement.options
    return found


SHIPPED = list_shipped()
TPOT_S = (0.002, 0.005, 0.01, 0.016, 0.023, 0.05, 0.1, 0.2)
FIRST_ROUND_S = (0.0, 2.0, 20.0)  # on top of an ordinary one


class Device(Clock):
    """Rounds of a suite's length that differ by up to 1 %, the first one longer by ``first``.

    ``drift(round)`` multiplies the length of one round.
    """

    def __init__(
        self, options: Options, tpot: float, first: float, drift: Callable[[int], float]
    ) -> None:
        self.round = 0.05 + (options.new_tokens - 1) * tpot  # the prompt takes 50 ms
        chance = np.random.default_rng(0).uniform(0.99, 1.01, size=1_000)
        lengths = [self.round * c * drift(n) for n, c in enumerate(chance)]
        super().__init__(lengths[0] + first, *lengths[1:])


def limits_of(options: Options) -> RoundLimits:
    return RoundLimits(options.min_rounds, options.min_time_s, options.max_time_s, options.warmup_s)


def test_every_suite_that_measures_speed_is_among_the_shipped_ones() -> None:
    assert {"gpt2", "llama-1b", "nightly", "shapes", "smoke", "speed"} <= set(SHIPPED)


@pytest.mark.parametrize("tpot", TPOT_S)
@pytest.mark.parametrize("suite", SHIPPED)
@pytest.mark.parametrize("first", FIRST_ROUND_S)
def test_a_steady_speed_settles_in_every_shipped_suite(
    suite: str, tpot: float, first: float
) -> None:
    """A workload takes no longer than a minute and thirteen rounds after its first one."""
    options = SHIPPED[suite]
    limits, device = limits_of(options), Device(options, tpot, first, lambda n: 1.0)
    assert warm_up(device.run, limits, device)
    warm = device.now
    rounds = take_rounds(device.run, limits, device)
    assert len(rounds) >= 3
    taken = device.now - warm
    if len(rounds) < limits.min_rounds:  # only where they do not fit into the time
        assert taken >= limits.max_time_s
    assert taken <= max(limits.max_time_s + 1.01 * device.round, 3.03 * device.round)
    assert device.now <= 1.01 * device.round + first + 60 + 13 * device.round


@pytest.mark.parametrize("tpot", TPOT_S)
@pytest.mark.parametrize("suite", SHIPPED)
@pytest.mark.parametrize("first", FIRST_ROUND_S)
def test_a_speed_that_drifts_is_flagged_in_every_shipped_suite(
    suite: str, tpot: float, first: float
) -> None:
    """Slower by 3 % with each round; it gives up after 3 x ``warmup_s`` and eight rounds."""
    options = SHIPPED[suite]
    limits, device = limits_of(options), Device(options, tpot, first, lambda n: 1.03**n)
    assert not warm_up(device.run, limits, device)
    after_first = device.now - 1.01 * device.round - first
    longest = device.round * 1.03**device.rounds
    assert after_first <= max(3 * limits.warmup_s + longest, 8 * longest)


@pytest.mark.parametrize("slow", [1.1, 2.0])
def test_three_slow_rounds_more_are_no_drift(slow: float) -> None:
    """As of graphs that are recorded, or caches that fill, after the first round."""
    for options in SHIPPED.values():
        device = Device(options, 0.2, 0.0, lambda n: slow if n <= 3 else 1.0)
        assert warm_up(device.run, limits_of(options), device)


def test_every_round_is_kept_in_order() -> None:
    clock = Clock(*range(1, 40))
    limits = make_limits(min_rounds=5, min_time_s=0.0)
    assert take_rounds(clock.run, limits, clock) == [1, 2, 3, 4, 5]
