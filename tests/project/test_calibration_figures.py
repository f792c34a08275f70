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
    *quality, worst = shares("A/A: FAIL", *QUALITY)  # the worst has no target
    others = shares("A/A: FAIL", "decode", "prefill", "memory")
    assert len(quality) + 1 + len(others) == len(shares("A/A: FAIL"))
    told = (
        f"a value FAILs in at most {quality[-1]:.1%} for quality ({len(quality)} kinds) and "
        f"{others[-1]:.1%} for speed and memory ({len(others)} kinds)"
    )
    assert told.replace("%", " %") in TEXT
    assert f"of one run FAILs in {worst:.1%}".replace("%", " %") in TEXT


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nothing new: any FAIL in a night", "any FAILs on at most {:.1%} of nights"),
        ("half improved: any FAIL in a night", "on {:.1%} where half the speeds improved"),
        ("truth 10 % inside: FAIL", "10 % inside its limit FAILs in at most {:.1%}"),
        ("truth at it: FAIL", "exactly at it FAILs in at most {:.1%}"),
        ("truth at it: PASS", "and passes in at most {:.1%}, one"),
        ("truth 10 % beyond: PASS", "10 % beyond it passes in at most {:.1%}"),
        ("confirmed, nothing new: any FAIL in a night", "new FAILs on at most {:.1%} of nights"),
        ("confirmed, nothing new: undecided", "at most {:.1%} of speeds stay undecided"),
        ("true harm = margin", "as large as its margin passes in at most {:.1%}"),
        ("A/A: the 95 % interval leaves 1 out", "they miss the truth in at most {:.1%}"),
    ],
)
def test_the_worst_of_each_kind_is_told(what: str, told: str) -> None:
    assert told.format(shares(what)[-1]).replace("%", " %").replace("  ", " ") in TEXT


def test_how_often_a_slowdown_is_confirmed_is_told_from_the_least() -> None:
    least = shares("confirmed, 5 % slower: FAIL")[0]
    assert f"5 % slower FAILs in at least {100 * least:.1f} %" in TEXT


def test_how_often_a_stated_harm_is_seen_is_told_from_the_least() -> None:
    found = shares("stated smallest")
    told = f"FAIL in {100 * found[0]:.0f} to {100 * found[-1]:.0f} % ({len(found)} kinds)"
    assert told in TEXT
