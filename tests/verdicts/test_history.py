"""Changes of level: found where they are, and not where there is noise or one odd run."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from harness.descriptions import Margin
from harness.errors import InputError
from harness.statistics.drift import find_drift
from harness.statistics.outliers import find_outliers
from harness.verdicts.history import (
    Observation,
    Segment,
    Series,
    divide,
    find_change_points,
)

NOISE = 0.01
HISTORIES = 200
A = [10.0, 10.1, 9.9, 10.0, 10.1, 9.9]
B = [12.0, 12.1, 11.9, 12.0, 12.1, 11.9]


def observe(values: list[float], **fields: object) -> list[Observation]:
    given = {"sha": None, "dirty": False, "identity": {}, "conditions": {}, **fields}
    return [
        Observation(run=f"r{i}", utc=f"2026-01-{i + 1:02}", value=value, **given)  # type: ignore[arg-type]
        for i, value in enumerate(values)
    ]


def simulate(seed: int, count: int = 30) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return (100 * (1 + NOISE * random.standard_normal((HISTORIES, count)))).tolist()


# calibration


@pytest.mark.parametrize("count", [4, 6, 8, 15, 30, 90])
def test_noise_alone_shifts_in_at_most_one_history_in_twenty(count: int) -> None:
    assert (
        sum(bool(find_change_points(values)) for values in simulate(count, count))
        <= 0.05 * HISTORIES
    )


def test_noise_with_one_odd_run_has_no_shift_either() -> None:
    found = 0
    for i, values in enumerate(simulate(5)):
        values[i % 30] *= 1.1
        found += bool(find_change_points(values))
    assert found <= 0.05 * HISTORIES


def resemble(random: np.random.Generator, count: int, rho: float) -> np.ndarray:
    """Normal noise of which each night shares ``rho`` with the night before: AR(1), variance 1."""
    steps = random.standard_normal(count) * math.sqrt(1 - rho**2)
    nights = [random.standard_normal()]
    for step in steps[1:]:
        nights.append(rho * nights[-1] + step)
    return np.array(nights)


def slow_down(random: np.random.Generator, count: int, share: float, by: float) -> np.ndarray:
    """Normal noise with a ``share`` of nights that are off ``by`` so many standard deviations."""
    return random.standard_normal(count) + by * (random.random(count) < share)


NIGHTS = {
    "alike": lambda random, n: random.standard_normal(n),
    "correlated 0.3": lambda random, n: resemble(random, n, 0.3),
    "correlated 0.5": lambda random, n: resemble(random, n, 0.5),
    "correlated 0.7": lambda random, n: resemble(random, n, 0.7),
    "5 % slow": lambda random, n: slow_down(random, n, 0.05, 5),
    "10 % slow": lambda random, n: slow_down(random, n, 0.1, 5),
    "10 % far slower": lambda random, n: slow_down(random, n, 0.1, 10),
    "heavy tails": lambda random, n: random.standard_t(3, n),
}


def count_shifts(nights: str, count: int, repeats: int, shift: float = 0.0) -> int:
    """Of ``repeats`` histories, how many have a change; ``shift`` standard deviations half-way."""
    random = np.random.default_rng([count, *nights.encode()])
    found = 0
    for _ in range(repeats):
        values = 100 + NIGHTS[nights](random, count)
        values[count // 2 :] += shift
        found += bool(find_change_points(values.tolist()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [6, 8, 15, 30, 60, 90])
@pytest.mark.parametrize("nights", NIGHTS)
def test_nights_that_resemble_each_other_or_are_slow_are_no_shift(nights: str, count: int) -> None:
    """5 % of 1,000, and what chance adds to that: at 6.4 % it would be p = 0.03."""
    assert count_shifts(nights, count, 1000) <= 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nights", "count", "share"),
    [
        ("alike", 15, 0.75),
        ("alike", 30, 0.99),
        ("correlated 0.3", 30, 0.85),
        ("correlated 0.5", 90, 0.97),
        ("10 % slow", 30, 0.90),
        ("10 % far slower", 90, 0.97),
        ("heavy tails", 30, 0.90),
    ],
)
def test_a_shift_of_five_sigma_is_still_found(nights: str, count: int, share: float) -> None:
    assert count_shifts(nights, count, 1000, shift=5.0) >= 1000 * share


@pytest.mark.parametrize("nights", ["correlated 0.5", "10 % far slower"])
def test_no_shift_in_real_nights(nights: str) -> None:
    assert count_shifts(nights, 30, 200) <= 0.07 * 200


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 60, 90])
@pytest.mark.parametrize("nights", NIGHTS)
def test_nights_of_no_drift_are_none(nights: str, count: int) -> None:
    """A chance of 0.1 %; correlated nights, whose correlation is estimated, up to 1.5 %."""
    random = np.random.default_rng([count, *nights.encode()])
    found = sum(
        find_drift((100 + NIGHTS[nights](random, count)).tolist()) is not None for _ in range(1000)
    )
    assert found <= (15 if "correlated" in nights else 4)


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_shift_of_five_percent_is_found_at_its_run(factor: float) -> None:
    found = 0
    for values in simulate(7):
        shifted = [v * factor if i >= 15 else v for i, v in enumerate(values)]
        starts = find_change_points(shifted)
        found += len(starts) == 1 and abs(starts[0] - 15) <= 1
    assert found >= 0.95 * HISTORIES


def test_an_odd_run_hides_no_shift() -> None:
    found = 0
    for i, values in enumerate(simulate(8)):
        shifted = [v * 1.05 if i >= 15 else v for i, v in enumerate(values)]
        shifted[i % 30] *= 0.9
        starts = find_change_points(shifted)
        found += len(starts) == 1 and abs(starts[0] - 15) <= 1
    assert found >= 0.95 * HISTORIES


def test_the_scale_and_level_of_the_values_do_not_matter() -> None:
    values = A + B
    assert find_change_points(values) == [6]
    assert find_change_points([v * 1e9 for v in values]) == [6]
    assert find_change_points([v * 1e-9 for v in values]) == [6]
    assert find_change_points([-v for v in values]) == [6]


# where shifts are


def test_several_shifts_are_found_there_and_back() -> None:
    assert find_change_points(A + B + A) == [6, 12]
    assert find_change_points(A + B + [v + 4 for v in A]) == [6, 12]


def test_values_that_repeat_exactly_shift_where_two_runs_stay() -> None:
    assert find_change_points([3.1] * 5 + [3.2] * 2) == [5]
    assert find_change_points([3.1, 3.1, 3.2, 3.2]) == [2]
    assert find_change_points([3.1] * 30) == []


@pytest.mark.parametrize("odd", [0, 1, 4, 7, 8])
def test_a_single_run_is_no_shift_wherever_it_is(odd: int) -> None:
    values = [3.1] * 9
    values[odd] = 9.0
    assert find_change_points(values) == []


def test_a_run_between_two_levels_is_no_level_of_its_own() -> None:
    assert find_change_points([3.1] * 6 + [3.14] + [3.2] * 6) in ([6], [7])


def test_too_few_runs_show_nothing() -> None:
    assert find_change_points([]) == []
    assert find_change_points([1.0]) == []
    assert find_change_points([1.0, 1.0, 2.0]) == []


def test_the_odd_run_is_named_and_the_shift_is_not_one() -> None:
    assert find_outliers([*A, 30.0, *A]) == {6: 10.1}
    assert find_outliers([*A, *A[:2], 30.0, 31.0, 29.0, *A, *A]) == {8: 10.1, 9: 10.1, 10: 10.1}
    assert find_outliers([3.1] * 8 + [9.0] * 2) == {}  # what repeats exactly may change for good
    assert find_outliers(A + B) == {}
    assert find_outliers([1.0, 2.0]) == {}


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruptures", None)
    with pytest.raises(InputError, match="pip install ruptures"):
        find_change_points(A + B)


# segments


def test_a_shift_says_between_which_runs_and_levels_it_is() -> None:
    (segment,) = divide(observe(A + B), logarithmic=False)
    (point,) = segment.change_points
    assert (point.previous.run, point.observation.run) == ("r5", "r6")
    assert (point.before, point.after) == (10.0, 12.0)
    assert point.change == pytest.approx(0.2)
    assert segment.outliers == ()


def test_levels_are_medians_so_that_an_odd_run_moves_none() -> None:
    (segment,) = divide(observe([*A, 50.0, *A, *B]), logarithmic=False)
    (point,) = segment.change_points
    assert (point.before, point.after) == (10.0, 12.0)
    assert [one.run for one in segment.outliers] == ["r6"]


def test_runs_that_cannot_be_compared_are_segments_of_their_own() -> None:
    old = observe(A, identity={"weights": "x", "protocol.context": 512})
    new = observe(B, identity={"weights": "x", "protocol.context": 1024, "protocol.stride": 8})
    first, second = divide([*old, *new], logarithmic=False)
    assert first.changed == ()
    assert second.changed == ("protocol.context", "protocol.stride")
    assert [len(first.observations), len(second.observations)] == [6, 6]
    assert not first.change_points + second.change_points


def test_speeds_are_judged_by_their_ratios() -> None:
    # Noise in proportion to the value: on a linear scale the high level is all noise.
    random = np.random.default_rng(3)
    levels = [1.0] * 10 + [1.5] * 10 + [100.0] * 10
    values = [v * math.exp(0.01 * random.standard_normal()) for v in levels]
    (segment,) = divide(observe(values), logarithmic=True)
    assert [one.observation.run for one in segment.change_points] == ["r10", "r20"]
    (linear,) = divide(observe(values), logarithmic=False)
    assert [one.observation.run for one in linear.change_points] != ["r10", "r20"]
    assert divide(observe([0.0, *A]), logarithmic=True)[0].change_points == ()


def test_differences_of_rounding_are_no_shift() -> None:
    (segment,) = divide(observe([1.7223741] * 5 + [1.7223742] * 5), logarithmic=False)
    assert segment.change_points == ()
    (segment,) = divide(observe([1.7223] * 5 + [1.7224] * 5), logarithmic=False)
    assert len(segment.change_points) == 1


def test_what_else_is_new_is_named_with_a_change() -> None:
    before = observe(A, sha="a" * 40, conditions={"torch": "2.12", "python": "3.11"})
    after = observe(B, sha="a" * 40, conditions={"torch": "2.13", "python": "3.11"})
    (point,) = divide([*before, *after], logarithmic=False)[0].change_points
    assert point.changed == ("torch",)
    assert point.same_commit
    dirty = observe(B, sha="a" * 40, dirty=True)
    assert not divide([*before, *dirty], logarithmic=False)[0].change_points[0].same_commit
    unknown = divide(observe(A + B), logarithmic=False)[0].change_points[0]
    assert not unknown.same_commit


# series


def series(values: list[float], better: str | None, margin: Margin | None) -> Series:
    segments = divide(observe(values), logarithmic=False)
    return Series("s", "cpu", "m[nf4]", "perplexity.ppl", "", better, margin, segments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("better", "up", "down"),
    [("higher", "better", "worse"), ("lower", "worse", "better"), (None, "changed", "changed")],
)
def test_a_shift_is_judged_in_the_value_s_own_direction(
    better: str | None, up: str, down: str
) -> None:
    for values, expected in ((A + B, up), (B + A, down)):
        found = series(values, better, None)
        assert found.judge(found.segments[0].change_points[0]) == expected


def test_shifts_within_the_margin_are_quiet_until_they_add_up() -> None:
    small = [1.0] * 5 + [1.008] * 5
    assert series(small, "lower", None).is_notable
    assert series(small, "lower", Margin(relative=0.005)).is_notable
    within = series(small, "lower", Margin(relative=0.01))
    assert within.has_change_points
    assert not within.is_notable
    assert series([*small, *[1.016] * 5], "lower", Margin(relative=0.01)).is_notable


@pytest.mark.parametrize(
    ("values", "worse"),
    [
        (A + B, True),
        (B + A, False),
        (A + B + A, False),  # it came back
        (B + A + B, True),  # what was gained is lost
        ([1.0] * 5 + [1.008] * 5, False),  # within the margin
        ([1.0] * 5 + [1.008] * 5 + [1.016] * 5, True),  # small steps add up
        (A, False),
    ],
)
def test_the_newest_level_is_worse_than_before(values: list[float], worse: bool) -> None:
    assert series(values, "lower", Margin(relative=0.01)).got_worse is worse
    assert not series(values, None, Margin(relative=0.01)).got_worse


@pytest.mark.parametrize("newest", [2, 3, 4])
def test_the_newest_runs_may_have_begun_a_level_and_more_decide(newest: int) -> None:
    """Nine values at a time are looked at: the fifth run of a new level shows it."""
    random = np.random.default_rng(newest)
    noise = 100 * np.exp(0.01 * random.standard_normal(60))
    values = [*noise[:40], *(noise[40 : 40 + newest] * 1.08)]
    found = series(values, "lower", Margin(relative=0.03))
    [possible] = found.tendencies
    assert (possible.runs, possible.more) == (newest, 5 - newest)
    assert possible.after / possible.before == pytest.approx(1.08, abs=0.02)
    assert not found.got_worse  # it may be luck
    decided = series([*values, *(noise[50 : 50 + possible.more] * 1.08)], "lower", None)
    assert decided.segments[0].change_points
    assert decided.got_worse
    assert series([*values, 100.0, 99.5], "lower", None).tendencies == ()  # it came back
    assert series(values[:41], "lower", None).tendencies == ()  # a single run


def test_a_drift_that_no_night_shows_is_worse_in_the_end() -> None:
    random = np.random.default_rng(1)
    nights = 100 * (1 + 0.0006 * np.arange(60) + 0.01 * random.standard_normal(60))
    found = series(nights.tolist(), "lower", Margin(relative=0.02))
    [drift] = found.tendencies
    assert (drift.runs, drift.more) == (60, 0)
    assert drift.after / drift.before == pytest.approx(1.035, abs=0.012)
    assert found.got_worse
    assert not series(nights.tolist(), "higher", Margin(relative=0.02)).got_worse
    assert not series(nights.tolist(), "lower", Margin(relative=0.08)).got_worse


def test_what_a_person_accepted_is_where_the_series_begins_anew() -> None:
    values = A + B + [15.0, 15.1, 14.9, 15.0, 15.1]
    seen = [replace(one, sha=f"{i:03}abcdef") for i, one in enumerate(observe(values))]

    def judged(*accepted: str) -> Series:
        segments = divide(seen, False, accepted)
        return Series("s", "cpu", "c", "perplexity.ppl", "", "lower", None, segments)

    assert judged().got_worse
    assert judged("006abcd").got_worse  # the later step was not accepted
    assert not judged("012abcd").got_worse
    assert not judged("006abcd", "012abcd").got_worse
    assert [one.changed for one in judged("012abcd").segments] == [(), ("accepted",)]


def test_a_series_is_short_where_no_segment_could_show_a_change() -> None:
    assert series([1.0, 1.0, 2.0], "lower", None).is_short
    assert not series(A, "lower", None).is_short


def test_a_level_of_zero_has_no_percentage() -> None:
    (segment,) = divide(observe([0.0] * 4 + [1.0] * 4), logarithmic=False)
    assert isinstance(segment, Segment)
    assert segment.change_points[0].change is None
