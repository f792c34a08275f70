"""advice: what would decide a verdict that is open."""

from __future__ import annotations

from typing import Any

import pytest

from harness.records.record import Looks, Record, SameNight, Validity, Value, Verdict
from harness.verdicts.advice import advise
from tests.support.records import make_choices, make_perplexity, make_record, make_speeds

SPEED = "throughput.decode_tokens_per_s[1]"
SPEEDUP = "throughput.decode_speedup[1]"
AGAIN = "pytest 'suites/x.yaml::m[nf4]::throughput'"


def advised(record: Record, metric: str, **fields: Any) -> str:
    given = {"verdict": "INCONCLUSIVE", "bound": "x", "value": 1.0, "text": "It is open.", **fields}
    made = Verdict(metric=metric, **given)
    return advise(made, record, "fp32", "suites/x.yaml", AGAIN).text


def timed(seconds: float) -> Record:
    record = make_speeds(100.0, n=3, seconds={"total": seconds})
    paired = {"decode_speedup[1]": Value(value=0.5, stderr=0.01, n=3)}
    return record.model_copy(update={"paired": paired})


def test_a_ratio_of_speeds_is_decided_by_pairs_of_processes() -> None:
    """20 s a process, 6 pairs of two: 240 s."""
    assert advised(timed(60.0), SPEEDUP) == (
        "It is open; to decide: harness ab suites/x.yaml --model m --measure throughput "
        "--precision fp32 --precision nf4 --pairs 6 (about 4 min on this machine)."
    )
    assert "--pairs 20 (about 13 min on" in advised(timed(60.0), SPEEDUP, enough=20)
    assert "--pairs 30" in advised(timed(60.0), SPEEDUP, enough=4000)


@pytest.mark.parametrize("against", ["threshold", "run"])
def test_a_change_of_speed_is_decided_by_both_environments_in_one_night(against: str) -> None:
    text = advised(timed(0.0), SPEED, against=against)
    assert "--precision nf4 --python OLD/bin/python --python NEW/bin/python --pairs 6." in text


@pytest.mark.parametrize(("verdict", "to"), [("FAIL", "confirm"), ("INCONCLUSIVE", "decide")])
def test_a_suspicious_speed_is_decided_by_the_blessed_commit_in_the_same_night(
    verdict: str, to: str
) -> None:
    """60 s for it, 60 s for its reference, and 12 processes of 20 s each: 6 minutes."""
    fields = {"against": "threshold", "verdict": verdict, "suspicious": True}
    text = advised(timed(60.0), SPEED, **fields)
    assert text == f"It is open; to {to}: {AGAIN} --confirm (about 6 min on this machine)."
    confirmed = timed(60.0).model_copy(update={"same_night": SameNight(commit="a" * 40)})
    assert advised(confirmed, SPEED, **fields) == "It is open."
    passed = {**fields, "verdict": "PASS"}
    assert advised(confirmed, SPEED, **passed) == "It is open."


def test_a_speed_at_a_limit_of_its_own_needs_more_processes() -> None:
    text = advised(timed(3.0), SPEED, enough=20, position="s.yaml:9:5", text="Open (s.yaml:9:5).")
    assert text == "Open; to decide: `processes: 20` of throughput in suites/x.yaml (s.yaml:9:5)."


def test_a_limit_that_a_few_processes_decide_is_measured_until_it_is() -> None:
    """12 processes of 20 s, of both sides for a ratio."""
    command = f"to decide: {AGAIN} --until-decided (about "
    assert f"{command}8 min on this machine)." in advised(timed(60.0), SPEEDUP, enough=12)
    assert f"{command}4 min on this machine)." in advised(timed(60.0), SPEED, enough=12)
    flagged = {"validity": Validity(status="flagged", reasons=("busy",))}
    looked = {"looks": Looks(at=(3, 4), most=16)}
    for update in (flagged, looked):  # it stays open then, or was tried
        record = timed(60.0).model_copy(update=update)
        assert "harness ab" in advised(record, SPEEDUP, enough=12)
    assert "harness ab" in advised(timed(60.0), SPEED, enough=12, against="threshold")


def test_more_items_or_a_longer_text_with_the_time_they_take() -> None:
    items = make_choices(n=500, seconds={"total": 50.0}, protocol={"limit": 10})  # 50 subjects
    assert advised(items, "mmlu.acc", enough=1500) == (
        "It is open; to decide: 1,500 items of mmlu in suites/x.yaml (`limit: 30`), about 2.5 min "
        "on this machine."
    )
    every = make_choices(n=500)
    assert advised(every, "mmlu.acc", enough=1500).endswith("mmlu, more than its data has.")
    whole = make_choices(n=500, protocol={"limit": 500})
    assert "(`limit: 1500`)" in advised(whole, "mmlu.acc", enough=1500)
    assert advised(whole, "mmlu.acc").endswith("more items of mmlu in suites/x.yaml (`limit:`).")
    ended = make_choices(n=500, protocol={"limit": 501})
    assert advised(ended, "mmlu.acc", enough=1500).endswith("mmlu, more than its data has.")
    text = advised(make_perplexity(1.0, 2.0), "perplexity.ppl", enough=80)
    assert text.endswith("to decide: a text of 80 chunks for perplexity in suites/x.yaml.")


def test_what_is_decided_or_exact_or_gone_needs_no_advice() -> None:
    assert advised(timed(1.0), SPEED, verdict="PASS") == "It is open."
    record = make_record("footprint", values={"total_bytes": 9})
    assert advised(record, "footprint.total_bytes") == "It is open."
    assert advised(make_record("throughput"), SPEED) == "It is open."
