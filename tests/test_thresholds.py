"""thresholds and bless: what may be blessed, what later runs are judged by, and how it reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from records import (
    ENVIRONMENT,
    make_choices,
    make_peaks,
    make_perplexity,
    make_record,
    make_run,
    make_speeds,
)

from harness.bless import bless
from harness.errors import InputError
from harness.record import Record, Run, Value, Verdict
from harness.thresholds import (
    Thresholds,
    judge_thresholds,
    list_unmeasured,
    path_of,
    propose_tighter,
    read_thresholds,
    write_thresholds,
)

EVERYTHING = (
    make_choices(),
    make_perplexity(150.0, 160.0, 170.0, 155.0),
    make_speeds(100.0),
    make_peaks(1 << 30),
)


def blessed(*runs: Run, previous: Thresholds | None = None) -> Thresholds:
    return bless(runs, "cpu-xeon", previous, "because", "2026-01-02").thresholds


def judge(
    thresholds: Thresholds, *records: Record, environment: Any = ENVIRONMENT
) -> list[Verdict]:
    return [v for r in records for v in judge_thresholds(thresholds, environment, r)]


def outcomes(thresholds: Thresholds, *records: Record) -> dict[str, str]:
    return {v.metric: v.verdict for v in judge(thresholds, *records)}


ALL = {
    "mmlu.acc",
    "perplexity.ppl",
    "throughput.decode_tokens_per_s[1]",
    "memory.load_peak_bytes",
    "memory.weights_bytes",
    "memory.prefill_peak_bytes",
    "memory.generate_peak_bytes",
    "memory.peak_bytes",
}


def test_a_blessed_run_passes_against_itself() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    found = judge(thresholds, *EVERYTHING)
    assert {v.metric for v in found} == ALL
    assert {v.verdict for v in found} == {"PASS"}
    assert {v.against for v in found} == {"threshold"}
    assert propose_tighter(thresholds, ENVIRONMENT, EVERYTHING) == []


@pytest.mark.parametrize(
    ("worse", "failing"),
    [
        (make_choices(lost=30), {"mmlu.acc"}),
        (make_perplexity(155.0, 165.0, 175.0, 160.0), {"perplexity.ppl"}),
        (make_speeds(90.0), {"throughput.decode_tokens_per_s[1]"}),
        (make_peaks(int(1.1 * (1 << 30))), {m for m in ALL if m.startswith("memory")}),
    ],
    ids=["accuracy", "perplexity", "speed", "memory"],
)
def test_a_worsened_copy_fails_for_exactly_what_got_worse(worse: Record, failing: set[str]) -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    records = [worse if r.measurement == worse.measurement else r for r in EVERYTHING]
    found = outcomes(thresholds, *records)
    assert {metric for metric, verdict in found.items() if verdict == "FAIL"} == failing
    assert {v for m, v in found.items() if m not in failing} == {"PASS"}


def test_both_sides_of_a_margin() -> None:
    """Memory: 2 % of 1 GiB. Perplexity: 0.5 %."""
    thresholds = blessed(make_run(make_peaks(1 << 30)))
    limit = (1 << 30) + 0.02 * (1 << 30)
    assert set(outcomes(thresholds, make_peaks(math.floor(limit))).values()) == {"PASS"}
    assert set(outcomes(thresholds, make_peaks(math.floor(limit) + 1)).values()) == {"FAIL"}
    base = make_perplexity(100.0, 100.0)
    thresholds = blessed(make_run(base))
    for factor, outcome in ((1.00499, "PASS"), (1.00501, "FAIL"), (0.5, "PASS")):
        nll = 100 + 100 * math.log(factor)
        assert outcomes(thresholds, make_perplexity(nll, nll))["perplexity.ppl"] == outcome


def test_one_process_is_judged_by_the_blessed_spread() -> None:
    """A nightly run of one process: 10 % slower shows, 2 % may be its luck."""
    thresholds = blessed(make_run(make_speeds(100.0, 0.01, 6)))

    def judged(speed: float) -> str:
        return outcomes(thresholds, make_speeds(speed, None, 1)).popitem()[1]

    assert [judged(s) for s in (120.0, 100.0, 98.0, 90.0)] == [
        "PASS",
        "PASS",
        "INCONCLUSIVE",
        "FAIL",
    ]


def test_a_threshold_without_spread_concludes_nothing_about_one_process() -> None:
    thresholds = blessed(make_run(make_speeds(100.0)))
    data = thresholds.model_dump(by_alias=True)
    data["cells"]["m[nf4]"]["throughput"]["values"]["decode_tokens_per_s[1]"]["spread"] = None
    [verdict] = judge(Thresholds.model_validate(data), make_speeds(50.0, None, 1))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "bless from 3 or more" in verdict.text


def test_what_a_threshold_depends_on_must_be_the_same() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    newer = {**ENVIRONMENT, "libraries": {**ENVIRONMENT["libraries"], "torch": "2.14"}}
    found = judge(thresholds, *EVERYTHING, environment=newer)
    assert {(v.metric, v.verdict) for v in found} == {
        (r.measurement, "INCONCLUSIVE") for r in EVERYTHING
    }
    assert "libraries.torch (2.13.0 → 2.14) changed; bless it anew" in found[0].text
    other = make_choices(protocol={"shots": 0})
    assert "protocol.shots (5 → 0)" in judge(thresholds, other)[0].text


def test_a_value_that_is_gone_fails_and_a_record_without_numbers_is_left_to_others() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    gone = make_peaks(1).model_copy(update={"values": {"peak_bytes": Value(value=None)}})
    assert set(outcomes(thresholds, gone).values()) == {"FAIL"}
    assert judge(thresholds, make_speeds(1.0, status="failed", reasons=("it died",))) == []
    assert list_unmeasured(thresholds, EVERYTHING[:2]) == ["m[nf4] throughput", "m[nf4] memory"]


def test_what_is_surely_better_proposes_to_be_blessed() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    [line] = propose_tighter(thresholds, ENVIRONMENT, [make_speeds(120.0)])
    assert line.startswith("m[nf4] throughput.decode_tokens_per_s[1] is 20.0% better")
    assert "harness bless" in line
    assert propose_tighter(thresholds, ENVIRONMENT, [make_speeds(102.0)]) == []
    assert propose_tighter(thresholds, ENVIRONMENT, [make_speeds(105.0, 0.08)]) == []


def test_small_steps_are_compared_with_the_anchor() -> None:
    """Each night 1 % slower than the last passes against the last, not against what was blessed."""
    thresholds = blessed(make_run(make_speeds(100.0)))
    nights = [outcomes(thresholds, make_speeds(100.0 - n)).popitem()[1] for n in range(8)]
    assert nights[0] == "PASS"
    assert nights[-1] == "FAIL"


# Blessing


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
    ],
)
def test_what_cannot_be_blessed_is_refused(run: Run, reason: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bless([run], "cpu-xeon", None, reason, "2026-01-02")


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


def test_runs_of_one_commit_tell_the_spread_by_hand() -> None:
    """Peaks of 100, 102 and 104 MiB: σ = 2 MiB, margin max(2 % of 102, 1 MiB, 3 σ) = 6 MiB."""
    mib = 1 << 20
    runs = [make_run(make_peaks(size * mib)) for size in (100, 102, 104)]
    threshold = blessed(*runs).cells["m[nf4]"]["memory"].values["peak_bytes"]
    assert threshold.value == 102 * mib
    assert threshold.spread == pytest.approx(2 * mib)
    assert threshold.margin == pytest.approx(6 * mib)
    assert threshold.n == 3


def test_a_spread_that_leaves_no_margin_is_said_and_not_widened() -> None:
    mib = 1 << 20
    runs = [make_run(make_peaks(size * mib)) for size in (100, 130, 160)]
    thresholds = blessed(*runs)
    assert thresholds.cells["m[nf4]"]["memory"].values["peak_bytes"].margin is None
    [first, *_] = judge(thresholds, make_peaks(200 * mib))
    assert first.verdict == "INCONCLUSIVE"
    assert "runs of one commit differ by σ = 3.1e+07: no margin would tell" in first.text


def test_runs_of_one_process_each_are_the_processes_by_hand() -> None:
    """ln of 100, 101, 102.01: s = ln 1.01; each run is a process."""
    runs = [make_run(make_speeds(s, None, 1)) for s in (100.0, 101.0, 102.01)]
    threshold = blessed(*runs).cells["m[nf4]"]["throughput"].values["decode_tokens_per_s[1]"]
    assert (threshold.value, threshold.n) == (pytest.approx(101.0), 3)
    assert threshold.spread == pytest.approx(math.log(1.01))


def test_a_part_of_a_suite_changes_its_own_thresholds_only() -> None:
    first = blessed(make_run(*EVERYTHING))
    second = blessed(make_run(make_choices(lost=3)), previous=first)
    assert second.cells["m[nf4]"]["memory"] == first.cells["m[nf4]"]["memory"]
    assert second.cells["m[nf4]"]["mmlu"] != first.cells["m[nf4]"]["mmlu"]


def test_what_changed_is_told_with_its_direction() -> None:
    first = blessed(make_run(make_peaks(1 << 30), make_speeds(100.0)))
    runs = [make_run(make_peaks(1 << 31), make_speeds(110.0))]
    changes = bless(runs, "cpu-xeon", first, "why", "2026-01-03").changes
    peak = next(line for line in changes if "memory.peak_bytes" in line)
    speed = next(line for line in changes if "decode" in line)
    assert "(+100.00%), looser; margin" in peak
    assert "100 → 110 tokens/s (+10.00%), tighter" in speed


# The file


def test_a_file_reads_back_and_changes_only_where_something_was_blessed(tmp_path: Path) -> None:
    path = path_of(tmp_path, "s", "cpu-xeon")
    assert path == tmp_path / "results/thresholds/s/cpu-xeon.json"
    first = blessed(make_run(*EVERYTHING))
    write_thresholds(first, path)
    assert read_thresholds(path) == first
    before = path.read_text().splitlines()
    write_thresholds(blessed(make_run(make_peaks(1 << 20)), previous=first), path)
    changed = [line for line in path.read_text().splitlines() if line not in before]
    assert changed
    assert all('"value"' in line or '"margin"' in line for line in changed)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:-20], "not a readable thresholds file"),
        (lambda text: "[]", "expected thresholds of schema 1, found None"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema 1, found 2"),
        (lambda text: text.replace('"better": "lower"', '"better": "less"', 1), "better: Input"),
        (lambda text: text.replace('"n": 1', '"n": "one"', 1), r"\.n: Input should be a valid"),
        (lambda text: text.replace('"margin"', '"margins"', 1), "margin"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_field(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    path = path_of(tmp_path, "s", "cpu-xeon")
    write_thresholds(blessed(make_run(*EVERYTHING)), path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        read_thresholds(path)
    assert str(caught.value).startswith(str(path))


def test_no_bare_nan_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_thresholds(blessed(make_run(*EVERYTHING)), path)
    json.loads(path.read_text(), parse_constant=pytest.fail)
