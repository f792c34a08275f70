"""same_night: suspicious speeds judged by pairs of the blessed commit and this code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.records.record import Record, SameNight, Verdict
from harness.statistics.moderated import UNKNOWN, Prior
from harness.statistics.shares import wilson
from harness.verdicts.bless import bless
from harness.verdicts.same_night import PAIRS_SHARE, compare_pairs, expect_spread, is_suspicious
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Threshold, Thresholds
from tests.support.records import ENVIRONMENT, make_peaks, make_run, make_speeds

DECODE = "decode_tokens_per_s[1]"
COMMIT = "abcdef1234" * 4
# What this code is to the commit in six pairs: about 1 % apart from each other.
NOISE = (0.99, 1.01, 1.0, 0.995, 1.005, 1.0)


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    """One night: 100 tokens/s, margin 3, processes that differ by 1 %."""
    run = make_run(make_speeds(100.0, 0.01, 6), make_peaks(1 << 30))
    return bless([run], "cpu-xeon", None, "because", "2026-01-02").thresholds


def judge(thresholds: Thresholds, record: Record) -> Verdict:
    [verdict] = judge_thresholds(thresholds, ENVIRONMENT, record)
    return verdict


def paired(speed: float, ratio: float, **given: Any) -> Record:
    """A record of ``speed`` whose pairs say that this code is ``ratio`` times as fast."""
    pairs = {DECODE: tuple((50.0, 50.0 * ratio * noise) for noise in NOISE)}
    same_night = SameNight(**{"commit": COMMIT, "pairs": pairs, **given})
    return make_speeds(speed).model_copy(update={"same_night": same_night})


@pytest.mark.parametrize(
    ("speed", "verdict", "suspicious"),
    [
        (85.0, "FAIL", True),
        (95.0, "INCONCLUSIVE", True),  # 5 % slower, margin 3 %: one night does not tell
        (100.0, "INCONCLUSIVE", True),  # as it was, and one night does not tell that either
        (110.0, "PASS", False),
    ],
)
def test_a_speed_that_does_not_pass_is_suspicious(
    thresholds: Thresholds, speed: float, verdict: str, suspicious: bool
) -> None:
    record = make_speeds(speed)
    found = judge(thresholds, record)
    assert (found.verdict, found.suspicious) == (verdict, suspicious)
    judged = record.model_copy(update={"verdicts": (found,)})
    assert is_suspicious(judged) is suspicious
    assert not is_suspicious(judged.model_copy(update={"same_night": SameNight(commit=COMMIT)}))


def test_memory_and_numbers_that_do_not_count_are_not_suspicious(thresholds: Thresholds) -> None:
    more = judge_thresholds(thresholds, ENVIRONMENT, make_peaks(2 << 30))
    assert [v.verdict for v in more] == ["FAIL"] * len(more)
    hot = judge(thresholds, make_speeds(50.0, status="invalid", reasons=("hot",)))
    assert not any(v.suspicious for v in (*more, hot))


@pytest.mark.parametrize("speed", [85.0, 95.0])
def test_a_slowdown_in_the_same_night_is_confirmed(thresholds: Thresholds, speed: float) -> None:
    found = judge(thresholds, paired(speed, 0.92))
    assert found.verdict == "FAIL"
    assert (
        "Confirmed: slower than abcdef1234 in the same night: -8.00 % (99 % bounds " in found.text
    )
    assert "6 pairs)." in found.text
    assert f"is {speed:.0f} tokens/s" in found.text  # the night's own number


@pytest.mark.parametrize("speed", [85.0, 95.0, 100.0])
def test_a_slow_machine_is_cleared(thresholds: Thresholds, speed: float) -> None:
    found = judge(thresholds, paired(speed, 1.0))
    assert found.verdict == "PASS"
    assert found.value == speed
    assert (
        "The machine, not the code: in the same night it differs from abcdef1234 by" in found.text
    )
    assert "100 tokens/s, blessed at abcdef1234)" in found.text


@pytest.mark.parametrize("speed", [85.0, 95.0])
def test_pairs_that_decide_nothing_leave_the_verdict_as_it_was(
    thresholds: Thresholds, speed: float
) -> None:
    """2.6 % slower, and the margin is 3 %: the pairs neither pass nor fail it."""
    before, found = judge(thresholds, make_speeds(speed)), judge(thresholds, paired(speed, 0.974))
    assert found.verdict == before.verdict
    assert "In the same night it differs from abcdef1234 by -2.60 %" in found.text
    assert "6 pairs do not decide it" in found.text


def test_what_is_not_suspicious_or_of_another_commit_stays(thresholds: Thresholds) -> None:
    assert [judge(thresholds, paired(110.0, 0.5))] == [
        *judge_thresholds(thresholds, ENVIRONMENT, make_speeds(110.0), confirms=True)
    ]
    other = paired(85.0, 1.0, commit="0" * 40)
    assert judge(thresholds, other) == judge(thresholds, make_speeds(85.0))


def test_a_library_that_both_sides_have_is_not_cleared(thresholds: Thresholds) -> None:
    """The code is; but the commit was blessed with another library, which may be the reason."""
    found = judge(thresholds, paired(85.0, 1.0, changed="bitsandbytes 0.49 → 0.50"))
    assert found.verdict == "FAIL"
    assert "Not the code: in the same night it differs from abcdef1234 by" in found.text
    assert found.text.endswith("what has changed for both: bitsandbytes 0.49 → 0.50.")
    slower = judge(thresholds, paired(95.0, 0.9, changed="bitsandbytes 0.49 → 0.50"))
    assert slower.verdict == "FAIL"


@pytest.mark.parametrize(
    ("ratio", "doubted", "kept"), [(1.0, "PASS", "FAIL"), (0.9, "FAIL", "INCONCLUSIVE")]
)
def test_a_busy_machine_decides_nothing(
    thresholds: Thresholds, ratio: float, doubted: Any, kept: str
) -> None:
    speed = 85.0 if kept == "FAIL" else 95.0
    found = judge(thresholds, paired(speed, ratio, doubts={doubted: "busy (in 2 of 6 pairs)"}))
    assert found.verdict == kept
    assert found.text.endswith("flagged: busy (in 2 of 6 pairs).")


def test_why_nothing_was_confirmed(thresholds: Thresholds) -> None:
    reason = "commit abcdef1234 is not in this shallow clone"
    for given in ({"lacking": reason}, {"lacking": reason, "pairs": {DECODE: ((1.0, 1.0),)}}):
        found = judge(thresholds, paired(85.0, 1.0, **{"pairs": {}, **given}))
        assert found.verdict == "FAIL"
        assert found.text.endswith(f" Not confirmed: {reason}.")
    found = judge(thresholds, paired(85.0, 1.0, pairs={"other": ((1.0, 1.0),) * 6}))
    assert "two processes are needed on either side that give decode_tokens_per_s[1]" in found.text


def test_pairs_that_are_missing_clear_nothing_and_are_told(thresholds: Thresholds) -> None:
    """This code crashed in the fifth pair: what was measured before does not acquit it."""
    crash = "this code: CUDA error: out of memory"
    four = {DECODE: tuple((100.0, 100.0 * one) for one in NOISE[2:])}
    for given in ({"pairs": four}, {}):
        found = judge(thresholds, paired(85.0, 1.0, lacking=crash, **given))
        assert found.verdict == "FAIL"
        assert not found.was_cleared
        assert "Not cleared: in the same night it differs from abcdef1234 by" in found.text
        assert found.text.endswith(f"but not all was measured; pairs are missing: {crash}.")
    slower = judge(thresholds, paired(95.0, 0.9, lacking=crash))
    assert slower.verdict == "FAIL"
    assert "Confirmed: slower than abcdef1234" in slower.text
    undecided = judge(thresholds, paired(95.0, 0.974, lacking=crash))
    for one in (slower, undecided):
        assert one.text.endswith(f"; pairs are missing: {crash}.")


def test_the_ratio_of_pairs_is_a_paired_t_test_where_nothing_is_known_of_processes() -> None:
    """scipy's, on logarithms, alternative: this code is slower."""
    threshold = Threshold(value=100.0, unit="", better="higher", margin=3.0, spread=None, n=3)
    pairs = [(10.0, 9.6), (11.0, 10.7), (10.5, 10.4), (10.2, 9.9)]
    harm, (low, high) = compare_pairs(pairs, threshold, UNKNOWN)
    logs = [[math.log(one) for one in side] for side in zip(*pairs, strict=True)]
    expected = stats.ttest_rel(logs[1], logs[0], alternative="less")
    interval = expected.confidence_interval(0.95)
    assert high == pytest.approx(math.exp(interval.high))
    assert harm.bounds == pytest.approx((100 * (1 - high), 100 * (1 - low)))
    assert harm.estimate == pytest.approx(
        100 * (1 - math.exp(float(np.mean(logs[1]) - np.mean(logs[0]))))
    )
    assert harm.stderr == pytest.approx(
        100 * abs(np.mean(logs[1]) - np.mean(logs[0])) / -expected.statistic
    )
    slower = Threshold(value=2.0, unit="s", better="lower", margin=0.1, spread=None, n=3)
    assert compare_pairs(pairs, slower, UNKNOWN)[0].estimate < 0


@pytest.mark.parametrize("wider", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("alike", [math.inf, 4.0])
def test_pairs_err_no_more_often_than_their_share_on_a_noisy_night(
    wider: float, alike: float
) -> None:
    """Records of 8 speeds, whose blessed processes differ by 1 % and tonight's by more or less.

    Checked against the level itself: of a FAIL's p-value, and of a PASS of what is at the margin.
    """
    threshold = Threshold(value=100.0, unit="", better="higher", margin=3.0, spread=0.01, n=3)
    rng, process = np.random.default_rng(5), Prior(0.01**2, alike, 192)
    level, error = 0.02 * PAIRS_SHARE, 0.05 * PAIRS_SHARE
    surely = beside = tries = 0
    for _ in range(500):
        spread = 0.01 * wider * np.ones(8)
        if math.isfinite(alike):
            spread *= np.sqrt(alike / rng.chisquare(alike, 8))
        speeds = np.exp(rng.normal(0, spread[:, None, None], (8, 6, 2)))
        pair = expect_spread([as_pairs(one) for one in speeds], process)
        for one in speeds:
            tries += 1
            harm, _ = compare_pairs(as_pairs(one), threshold, pair, error)
            surely += harm.p_beyond(0.0) <= level
            slower, _ = compare_pairs(as_pairs(one * (1, 0.97)), threshold, pair, error)
            assert slower.bounds is not None
            beside += slower.bounds[1] <= 3.0
    assert wilson(surely, tries, 3.0)[0] <= level
    assert wilson(beside, tries, 3.0)[0] <= error


def as_pairs(speeds: Any) -> list[tuple[float, float]]:
    return [(float(before), float(now)) for before, now in speeds]


def test_a_slowdown_of_one_in_96_speeds_is_seen() -> None:
    """5 % slower where processes differ by 1 %, among 8 speeds of a record."""
    threshold = Threshold(value=100.0, unit="", better="higher", margin=3.0, spread=0.01, n=3)
    rng, process = np.random.default_rng(5), Prior(0.01**2, math.inf, 192)
    seen = 0
    for _ in range(200):
        speeds = np.exp(rng.normal(0, 0.01, (8, 6, 2)))
        pair = expect_spread([as_pairs(one) for one in speeds], process)
        harm, _ = compare_pairs(as_pairs(speeds[0] * (1, 0.95)), threshold, pair)
        seen += harm.estimate > 3.0 and harm.p_beyond(0.0) <= 0.02 * PAIRS_SHARE / 96
    assert seen >= 0.9 * 200


def test_what_a_pair_varies_by() -> None:
    """By hand: twice a process's variance, or tonight's own; never surer than tonight's pairs."""
    process = Prior(0.01**2, math.inf, 192)
    assert expect_spread([], process) == Prior(0.0002, math.inf, 192)
    quiet = [[(1.0, 1.0), (1.0, 1.001), (1.0, 0.999)]] * 4
    assert expect_spread(quiet, process) == Prior(0.0002, math.inf, 8)
    # ln ratios -0.1, 0, 0.1: variance 0.01 of 2 degrees of freedom, of which the log is too low.
    noisy = [[(1.0, math.exp(-0.1)), (1.0, 1.0), (1.0, math.exp(0.1))]] * 4
    found = expect_spread(noisy, process)
    assert found.variance == pytest.approx(0.01 * math.exp(0.5772157), rel=1e-4)
    assert (found.df, found.pooled) == (math.inf, 8)
    assert expect_spread(noisy, UNKNOWN).df == 0


@pytest.mark.parametrize("speed", [95.0, 100.0, 104.0])
def test_two_tries_share_the_error_of_one(speed: float) -> None:
    """By hand: t(96 %) for t(95 %), as far as three nights of 100 tokens/s go."""
    nights = [
        make_run(make_speeds(100.0 * one, 0.01, 3), utc=f"2026-01-0{day}T00:00:00Z")
        for day, one in enumerate((0.99, 1.0, 1.01), 1)
    ]
    blessed = bless(nights, "cpu-xeon", None, "because", "2026-01-02").thresholds
    [plain] = judge_thresholds(blessed, ENVIRONMENT, make_speeds(speed))
    [first] = judge_thresholds(blessed, ENVIRONMENT, make_speeds(speed), confirms=True)
    assert (plain.error, first.error) == (0.05, pytest.approx(0.04))
    assert "(95 % bounds " in plain.text
    assert "(96 % bounds " in first.text
    assert plain.bounds is not None
    assert first.bounds is not None
    df = 2
    log_reaches = [math.log(one.bounds[1] / speed) for one in (first, plain)]
    assert log_reaches[0] / log_reaches[1] == pytest.approx(
        stats.t.ppf(0.96, df) / stats.t.ppf(0.95, df)
    )
    again = judge(blessed, paired(speed, 1.0))  # as it is read from a run file
    assert (again.bounds, again.error) == (first.bounds, first.error)
