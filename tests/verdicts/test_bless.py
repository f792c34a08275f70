"""bless: what may be blessed and why not, what a threshold is made of, and what it changes."""

from __future__ import annotations

import math

import pytest

from harness.errors import InputError
from harness.records.record import Record, Verdict
from harness.records.run_file import Run
from harness.verdicts.bless import bless
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Thresholds
from tests.support.records import (
    ENVIRONMENT,
    EVERYTHING,
    make_choices,
    make_peaks,
    make_perplexity,
    make_record,
    make_run,
    make_speeds,
)

DECODE = "decode_tokens_per_s[1]"


def at(day: int, hour: int = 0) -> str:
    return f"2026-01-{day:02}T{hour:02}:00:00+00:00"


def blessed(*runs: Run, previous: Thresholds | None = None) -> Thresholds:
    return bless(runs, "cpu-xeon", previous, "because", "2026-01-02").thresholds


@pytest.mark.parametrize(
    ("run", "reason", "message"),
    [
        (make_run(*EVERYTHING), " ", "a reason is needed"),
        (make_run(*EVERYTHING, interrupted=True), "x", "was interrupted"),
        (make_run(*EVERYTHING, git_dirty=True), "x", "a dirty tree: commit first"),
        (make_run(*EVERYTHING, git_sha=None), "x", "of no commit"),
        (make_run(make_choices(status="invalid", reasons=("NaN",))), "x", "mmlu is invalid: NaN"),
        (make_run(make_peaks(9), make_choices(status="failed", reasons=("died",))), "x", "died"),
        (make_run(make_speeds(9.0, None, 1)), "x", "nothing to bless: .* 1 processes, 3 are"),
        (make_run(make_speeds(9.0, 0.01, 2)), "x", "nothing to bless: .* 2 processes, 3 are"),
        (make_run(make_speeds(9.0, 0.2, 6)), "x", "differ by 20%, which is no agreement"),
        (make_run(make_record("side_by_side", values={"items": 3})), "x", "nothing to bless"),
        (make_run(make_choices(reference_only=True)), "x", "nothing to bless"),
        (make_run(make_choices(noise=True)), "x", "nothing to bless"),
        (make_run(make_choices(reused_from="s/earlier")), "x", "nothing to bless"),
        (make_run(make_choices(status="skipped")), "x", "nothing to bless"),
        (
            make_run(make_speeds(9.0, status="flagged", reasons=("power was capped",))),
            "x",
            "a flagged speed is no anchor: power was capped",
        ),
    ],
)
def test_what_cannot_be_blessed_is_refused(run: Run, reason: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bless([run], "cpu-xeon", None, reason, "2026-01-02")


def test_values_left_out_for_one_reason_share_a_line_without_flags_told_again() -> None:
    flags = ("others used 1.7 of 2 cores", "power was capped", "others used 0.9 of 2 cores")
    flagged = make_speeds(9.0, status="flagged", reasons=flags)
    result = bless([make_run(make_peaks(9), flagged)], "cpu-xeon", None, "x", "2026-01-02")
    [line] = result.left_out
    assert line.endswith("no anchor: others used 1.7 of 2 cores (2 times); power was capped")
    judged = [name for name in flagged.values if name in line]
    assert judged


def test_a_broken_limit_is_not_blessed() -> None:
    verdict = Verdict(verdict="FAIL", metric="mmlu.acc", bound="min 0.9", value=0.5, text="too low")
    with pytest.raises(InputError, match="breaks a limit of its suite: too low"):
        blessed(make_run(make_choices(verdicts=(verdict,))))
    threshold = verdict.model_copy(update={"against": "threshold"})
    assert blessed(make_run(make_choices(verdicts=(threshold,))))  # which is what bless replaces


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (make_run(*EVERYTHING, git_sha="1" * 40), "different commits"),
        (make_run(*EVERYTHING, device="cuda:0"), "different devices"),
        (make_run(*EVERYTHING, environment={**ENVIRONMENT, "torch": {"threads": 1}}), "threads"),
    ],
)
def test_only_runs_of_one_kind_are_blessed_together(other: Run, what: str) -> None:
    with pytest.raises(InputError, match=what):
        blessed(make_run(*EVERYTHING), other)


def test_runs_of_different_suites_or_one_run_twice_are_refused() -> None:
    run = make_run(*EVERYTHING)
    other = run.model_copy(update={"suite": {**run.suite, "sha256": "6" * 64}})
    with pytest.raises(InputError, match="different suites"):
        blessed(run, other)
    with pytest.raises(InputError, match="given twice: a copy does not show how runs differ"):
        blessed(run, make_run(*EVERYTHING))


def test_a_copy_does_not_make_up_for_processes() -> None:
    run = make_run(make_speeds(100.0, 0.01, 2))
    with pytest.raises(InputError, match="given twice"):
        blessed(run, run)


@pytest.mark.parametrize(("suite", "device"), [("t", "cpu-xeon"), ("s", "cpu-epyc")])
def test_thresholds_of_another_suite_or_device_are_not_changed(suite: str, device: str) -> None:
    before = blessed(make_run(*EVERYTHING)).model_copy(update={"suite": suite, "device": device})
    with pytest.raises(InputError, match=f"are of {suite} on {device}, the runs of s on cpu-xeon"):
        blessed(make_run(*EVERYTHING), previous=before)


def test_runs_of_one_commit_tell_the_spread_by_hand() -> None:
    """Peaks of 100, 102 and 104 MiB: σ = 2 MiB. The margin stays max(2 % of 102, 1 MiB)."""
    mib = 1 << 20
    runs = [make_run(make_peaks(size * mib)) for size in (100, 102, 104)]
    threshold = blessed(*runs).cells["m[nf4]"]["memory"].values["peak_bytes"]
    assert threshold.value == 102 * mib
    assert threshold.spread == pytest.approx(2 * mib)
    assert threshold.margin == pytest.approx(2.04 * mib)
    assert threshold.n == 3


def test_a_margin_that_equal_runs_exceed_is_reported_and_not_widened() -> None:
    mib = 1 << 20
    runs = [make_run(make_peaks(size * mib), id=f"{size}") for size in (100, 130, 160)]
    result = bless(runs, "cpu-xeon", None, "because", "2026-01-02")
    peak = result.thresholds.cells["m[nf4]"]["memory"].values["peak_bytes"]
    assert peak.margin == pytest.approx(0.02 * 130 * mib)
    assert any("memory.peak_bytes: this machine cannot hold" in line for line in result.cautions)
    [first, *_] = judge_thresholds(result.thresholds, ENVIRONMENT, make_peaks(200 * mib))
    assert first.verdict == "INCONCLUSIVE"
    [same, *_] = judge_thresholds(result.thresholds, ENVIRONMENT, make_peaks(130 * mib))
    assert "this machine cannot hold this margin" in same.text
    calm = [make_run(make_peaks(100 * mib + size), id=f"{size}") for size in (0, 1, 2)]
    assert bless(calm, "cpu-xeon", None, "because", "2026-01-02").cautions == ()


def test_runs_of_one_process_each_are_the_processes_by_hand() -> None:
    """ln of 100, 101, 102.01: s = ln 1.01, of one night; of three nights none shows its own."""
    for days, spread in (((1, 1, 1), pytest.approx(math.log(1.01))), ((1, 2, 3), None)):
        runs = [
            make_run(make_speeds(s, None, 1), id=f"{s}", utc=at(day, hour))
            for s, day, hour in zip((100.0, 101.0, 102.01), days, (1, 2, 3), strict=True)
        ]
        threshold = blessed(*runs).cells["m[nf4]"]["throughput"].values[DECODE]
        assert (threshold.value, threshold.n) == (pytest.approx(101.0), 3)
        assert (threshold.spread, threshold.runs) == (spread, [100.0, 101.0, 102.01])


def test_a_part_of_a_suite_changes_its_own_thresholds_only() -> None:
    first = blessed(make_run(*EVERYTHING))
    second = blessed(make_run(make_choices(lost=3)), previous=first)
    assert second.cells["m[nf4]"]["memory"] == first.cells["m[nf4]"]["memory"]
    assert second.cells["m[nf4]"]["mmlu"] != first.cells["m[nf4]"]["mmlu"]


def test_parts_of_a_suite_are_blessed_together() -> None:
    """One run per precision: each value is from the run that measured it, not reused."""
    full = make_run(make_peaks(5 << 30), make_perplexity(150.0, 160.0), id="s/1")
    stand_in = make_perplexity(150.0, 160.0, reference_only=True, reused_from="s/1")
    part = make_run(make_choices(), stand_in, id="s/2")
    cell = blessed(full, part).cells["m[nf4]"]
    assert {name: one.run for name, one in cell.items()} == {
        "memory": "s/1",
        "perplexity": "s/1",
        "mmlu": "s/2",
    }
    assert cell["perplexity"].values["ppl"].n == 1


def test_both_sides_of_the_agreement_and_number_of_processes() -> None:
    for spread, n, agrees in (
        (0.099, 3, True),
        (0.101, 3, False),
        (0.01, 3, True),
        (0.01, 2, False),
    ):
        runs = [make_run(make_speeds(100.0, spread, n), make_peaks(1 << 30))]
        result = bless(runs, "cpu-xeon", None, "why", "2026-01-02")
        assert ("throughput" in result.thresholds.cells["m[nf4]"]) is agrees
        assert bool(result.left_out) is not agrees


def speeds(prefill_spread: float) -> Record:
    """Two values; the second may be unsteady."""
    prefill = make_speeds(900.0, prefill_spread).values["decode_tokens_per_s[1]"]
    return make_record(
        "throughput",
        "nf4",
        values={**make_speeds(100.0).values, "prefill_tokens_per_s[1]": prefill},
    )


def test_no_threshold_is_lost_because_a_run_was_unsteady() -> None:
    first = blessed(make_run(speeds(0.01)))
    result = bless(
        [make_run(speeds(0.3), make_peaks(1 << 30))], "cpu-xeon", first, "why", "2026-01-03"
    )
    cell = result.thresholds.cells["m[nf4]"]
    assert cell["throughput"] == first.cells["m[nf4]"]["throughput"]
    assert "memory" in cell
    assert "differ by 30%" in result.left_out[0]
    assert "stays as it was: prefill_tokens_per_s[1] would no longer have" in result.left_out[1]


def test_what_a_suite_no_longer_measures_is_reported_as_gone() -> None:
    first = blessed(make_run(speeds(0.01)))
    result = bless([make_run(make_speeds(100.0))], "cpu-xeon", first, "why", "2026-01-03")
    assert result.changes == ("m[nf4] throughput.prefill_tokens_per_s[1]: gone, was 900 tokens/s",)


@pytest.mark.parametrize("spread", [0.001, 0.01, 0.06])
def test_the_margin_of_a_speed_is_what_is_declared_however_it_varies(spread: float) -> None:
    result = bless([make_run(make_speeds(100.0, spread, 4))], "cpu-xeon", None, "why", "2026-01-02")
    assert result.thresholds.cells["m[nf4]"]["throughput"].values[DECODE].margin == pytest.approx(
        3.0
    )
    assert any("cannot hold its margin of 3:" in line for line in result.cautions) is (
        spread > 0.02
    )


def test_runs_are_the_nights_and_processes_within_them_keep_their_own_spread_by_hand() -> None:
    """Two nights of 3 at -1 % and +1 %, with spreads of 1 % and 3 %: sqrt((1 + 9)/2) %."""
    runs = [
        make_run(make_speeds(100 * math.exp(x), spread, 3), id=f"{x}", utc=at(day))
        for x, spread, day in ((-0.01, 0.01, 1), (0.01, 0.03, 2))
    ]
    result = bless(runs, "cpu-xeon", None, "why", "2026-01-02")
    one = result.thresholds.cells["m[nf4]"]["throughput"]
    threshold = one.values[DECODE]
    assert (threshold.value, threshold.n) == (pytest.approx(100.0), 6)
    assert threshold.spread == pytest.approx(math.sqrt(5) / 100)
    assert threshold.runs == pytest.approx([99.0049834, 101.0050167])
    assert (one.runs, one.utcs) == (["-0.01", "0.01"], [at(1), at(2)])
    assert "2 runs of 2 nights show too little of how nights differ" in result.cautions[-1]


def test_runs_of_one_night_are_one_sample_of_its_processes_by_hand() -> None:
    """3 processes each, at -1 % and 1 % in one night and at 4 % in another; spreads of 1, 3, 2 %.

    Squares of the first night: 2·1 + 2·9 + 6·1 = 26, of 5 degrees of freedom; of the other 2·4 = 8,
    of 2. The value is the mean of 0 and 4 %, not of -1, 1 and 4 %.
    """
    runs = [
        make_run(make_speeds(100 * math.exp(x), spread, 3), id=f"{x}", utc=utc)
        for x, spread, utc in ((-0.01, 0.01, at(1)), (0.04, 0.02, at(2)), (0.01, 0.03, at(1, 11)))
    ]
    threshold = blessed(*runs).cells["m[nf4]"]["throughput"].values[DECODE]
    assert threshold.value == pytest.approx(100 * math.exp(0.02))
    assert threshold.spread == pytest.approx(math.sqrt(34 / 7) / 100)
    assert threshold.n == 9


@pytest.mark.parametrize(
    ("times", "line"),
    [
        ([at(1)], "1 run of one night shows nothing of how nights differ"),
        ([at(1, 1), at(1, 2), at(1, 3)], "3 runs of one night show nothing of how nights differ"),
        ([at(1, 1), at(1, 2), at(2, 3)], "3 runs of 2 nights show too little of how nights differ"),
        ([at(1), at(2), at(3)], ""),
    ],
)
def test_blessing_says_how_many_nights_the_runs_are(times: list[str], line: str) -> None:
    runs = [
        make_run(make_speeds(100.0 + i / 10), id=f"s/{i}", utc=utc) for i, utc in enumerate(times)
    ]
    cautions = bless(runs, "cpu-xeon", None, "why", "2026-01-02").cautions
    assert [one for one in cautions if "INCONCLUSIVE; bless runs of 3 nights" in one] == [
        one for one in cautions if line and one.startswith(line)
    ]
    assert bool(line) is any("of how nights differ" in one for one in cautions)


def test_what_changed_is_told_with_its_direction() -> None:
    first = blessed(make_run(make_peaks(1 << 30), make_speeds(100.0)))
    runs = [make_run(make_peaks(1 << 31), make_speeds(110.0))]
    changes = bless(runs, "cpu-xeon", first, "why", "2026-01-03").changes
    peak = next(line for line in changes if "memory.peak_bytes" in line)
    speed = next(line for line in changes if "decode" in line)
    assert "(+100.00%), looser; margin" in peak
    assert "100 → 110 tokens/s (+10.00%), tighter" in speed
