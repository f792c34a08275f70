"""docs/verdicts.md says of the calibration what its figures say: the worst of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = json.loads((ROOT / "benchmarks/results/calibration.json").read_text(encoding="utf-8"))
SHARES: list[dict[str, Any]] = FIGURES["simulated"]["shares"]
QUALITY = ("accuracy", "perplexity", "divergence")
TEXT = " ".join((ROOT / "docs/verdicts.md").read_text(encoding="utf-8").split())


def shares(what: str, *worlds: str) -> list[float]:
    """Those of all kinds whose description begins so, with a target or without, sorted."""
    return sorted(
        one["share"]
        for one in SHARES
        if one["what"].startswith(what) and one["world"].startswith(worlds or "")
    )


def test_false_fails_of_every_kind_are_told() -> None:
    quality = shares("A/A: FAIL", *QUALITY)
    others = shares("A/A: FAIL", "decode", "prefill", "memory")
    assert len(quality) + len(others) == len(shares("A/A: FAIL"))
    told = (
        f"a value FAILs in at most {quality[-1]:.1%} for quality ({len(quality)} kinds) and "
        f"{others[-1]:.1%} for speed and memory ({len(others)} kinds)"
    )
    assert told.replace("%", " %") in TEXT


def test_limits_with_targets_are_told_apart_from_those_without() -> None:
    """Few chunks cannot show a tail without a skewness: how often that passes is said."""
    for what, where in (("truth at it: PASS", "and"), ("truth 10 % beyond: PASS", "beyond it")):
        known = [one for one in SHARES if one["what"] == what]
        worst = max(one["share"] for one in known if one["at_most"] is not None)
        assert f"{where} passes in at most {worst:.1%}".replace("%", " %") in TEXT
    known = [one for one in SHARES if one["what"] == "truth at it: PASS"]
    least = [one["share"] for one in known if one["at_most"] is None]
    told = f"passes at its limit in {100 * min(least):.0f} to {100 * max(least):.0f} %"
    assert told in TEXT


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nothing new: any FAIL in a night", "any FAILs on at most {:.1%} of nights"),
        ("half improved: any FAIL in a night", "on {:.1%} where half the speeds improved"),
        ("truth 10 % inside: FAIL", "10 % inside its limit FAILs in at most {:.1%}"),
        ("truth at it: FAIL", "exactly at it FAILs in at most {:.1%}"),
        ("each truth 10 % inside: any FAIL", "any FAILs in {:.1%} of nights where each truth"),
        ("each truth at it: any FAIL", "and in {:.1%} where each is exactly at it"),
        ("true harm = margin", "as large as its margin passes in at most {:.1%}"),
        ("A/A: the 95 % interval leaves 1 out", "they miss the truth in at most {:.1%}"),
    ],
)
def test_the_worst_of_each_kind_is_told(what: str, told: str) -> None:
    assert told.format(shares(what)[-1]).replace("%", " %").replace("  ", " ") in TEXT


def test_what_confirming_does_is_told() -> None:
    """The worst of each kind; that nothing was seen in so many nights is no 0.0 %."""
    found = [one for one in SHARES if one["what"].startswith("confirmed, ")]
    usual = [one for one in found if "tonight" not in one["world"]]

    def list_usual(what: str) -> list[float]:
        return [one["share"] for one in usual if what in one["what"]]

    worst = max((x for x in usual if "any FAIL" in x["what"]), key=lambda x: x["share"])
    told = f"on at most {100 * worst['share']:.1f} % of nights"
    if not worst["count"]:
        below = 100 * worst["interval"][1]
        told = f"in none of {worst['n']} nights (fewer than {below:.1f} %)"
    assert (
        f"5 % slower FAILs in at least {100 * min(list_usual('5 % slower')):.1f} %, nothing new "
        f"FAILs {told}, at most {100 * max(list_usual('undecided')):.1f} % of speeds stay "
        f"undecided; exactly 3 % slower passes in at most "
        f"{100 * max(list_usual('at the margin')):.1f} %"
    ) in TEXT
    for judge, told in (
        ("1 night,", "new FAILs on {:.1f} % of nights, exactly 3 % slower passes in {:.1f} %"),
        ("3 nights,", "any FAILs on {:.1f} % of nights, and exactly 3 % slower passes in {:.1f} %"),
    ):
        noisy = {
            one["what"].partition(", ")[2].partition(",")[0]: 100 * one["share"]
            for one in found
            if "tonight" in one["world"] and judge in one["judge"]
        }
        alarms, passed = noisy["nothing new: any FAIL in a night"], noisy["truth at the margin"]
        assert told.format(alarms, passed) in TEXT
        if judge == "1 night,":
            told = "but {:.1f} % stay undecided and 5 % slower FAILs in {:.1f} %"
            assert told.format(noisy["nothing new: undecided"], noisy["5 % slower: FAIL"]) in TEXT


def test_what_is_named_or_announced_is_told_from_the_least() -> None:
    for what, told in (
        ("named by", "so many samples decide in {:.1f} to {:.1f} % ({} kinds)"),
        ("announced", "pass in {:.1f} to {:.1f} % ({} kinds)"),
    ):
        found = shares(what)
        assert told.format(100 * found[0], 100 * found[-1], len(found)) in TEXT


@pytest.mark.parametrize(
    ("judge", "slower"), [("limit min 0.97", "10"), ("compare, margin 3%", "5")]
)
def test_what_measuring_until_it_is_decided_does_is_told(judge: str, slower: str) -> None:
    found = {
        one["what"].removeprefix("until decided, "): one["share"]
        for one in SHARES
        if one["judge"] == judge and one["what"].startswith("until decided, ")
    }
    shown = {what: f"{100 * share:.1f} %" for what, share in found.items()}
    once = shown["as fast: undecided with 3 processes and a single look"]
    measured = 16 * found["as fast: measured, of 16 a side"]
    told = (
        f"undecided in {shown['as fast: undecided']} instead of {once}, with {measured:.1f} "
        f"processes a side on average; exactly 3 % slower it passes in "
        f"{shown['3% slower, as is allowed: PASS']}"
    )
    failed = shown.get("3% slower, as is allowed: FAIL")
    told += f" and FAILs in {failed}" if failed else ""
    assert f"{told}, {slower} % slower it FAILs in {shown[f'{slower}% slower: FAIL']}" in TEXT


def test_how_often_a_stated_harm_is_seen_is_told_from_the_least() -> None:
    found = shares("stated smallest")
    told = f"FAIL in {100 * found[0]:.0f} to {100 * found[-1]:.0f} % ({len(found)} kinds)"
    assert told in TEXT


def test_what_the_shipped_suites_leave_open_is_told() -> None:
    """Of speeds the worst at either spread, of all else the worst."""
    timed = {
        spread: max(one["share"] for one in SHARES if f".yaml, decode, {spread}" in one["world"])
        for spread in ("σ 1%", "σ 2%")
    }
    others = [
        one["share"]
        for one in SHARES
        if ".yaml, " in one["world"] and ", σ" not in one["world"] and one["at_most"]
    ]
    assert f"undecided in at most {100 * max(others):.0f} %" in TEXT
    assert f"at most {100 * timed['σ 1%']:.0f} % where processes differ by 1 %" in TEXT
    assert f"At 2 % between processes {100 * timed['σ 2%']:.0f} % are undecided" in TEXT


def test_values_compared_at_once_are_told() -> None:
    found = [one for one in SHARES if one["world"].startswith("100 values")]
    assert {one["n"] for one in found} == {FIGURES["simulated"]["setting"]["repeats"]}
    alarms = max(one["share"] for one in found if one["at_most"])
    unadjusted = sorted(one["share"] for one in found if not one["at_most"])
    assert f"any false FAIL in at most {alarms:.1%} of runs".replace("%", " %") in TEXT
    assert f"unadjusted in {100 * unadjusted[0]:.0f} to {100 * unadjusted[-1]:.0f} %" in TEXT
