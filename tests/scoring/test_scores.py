"""The `evaluate.Metric` classes alone: computed values, no hub, nothing left behind."""

from __future__ import annotations

import os
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest

from harness.scoring.scores import ExactMatch, Repetition
from tests.support.projects import ROOT

CLASSES = (ExactMatch, Repetition)
GSM8K = {"regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"], "ignore_case": True}


def exact(ours: Any, theirs: Any, **options: Any) -> list[bool]:
    matches: list[bool] = ExactMatch().compute(predictions=ours, references=theirs, **options)[
        "matches"
    ]
    return matches


# exact_match


def test_exact_match_is_the_share_of_equal_texts_with_its_standard_error() -> None:
    found = ExactMatch().compute(predictions=["a", "b", "C", ""], references=["a", "B", "C", ""])
    assert found == {
        "exact_match": 0.75,
        "exact_match_stderr": pytest.approx(0.25),  # sqrt(0.75 * 0.25 / 3)
        "matches": [True, False, True, True],
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ("Yes", "yes", {"ignore_case": True}),
        ("STRASSE", "strasse", {"ignore_case": True}),
        ("well, done!", "well done", {"ignore_punctuation": True}),
        ("room 101", "room ", {"ignore_numbers": True}),
        ("the cat", "cat", {"regexes_to_ignore": ["the "]}),
        # One after the other: the second finds what the first has left.
        ("aXXb", "", {"regexes_to_ignore": ["X", "ab"]}),
        # Before the case is dropped.
        ("A-b", "b", {"regexes_to_ignore": ["A-"], "ignore_case": True}),
        ("$1,234.", "so it is\n#### 1234", GSM8K),
        ("-3", "#### -3", GSM8K),
    ],
)
def test_each_option_makes_texts_equal_that_otherwise_differ(
    ours: str, theirs: str, options: dict[str, Any]
) -> None:
    assert exact([ours], [theirs], **options) == [True]
    assert exact([ours], [theirs]) == [False]


def match_by_numpy(
    ours: Sequence[str],
    theirs: Sequence[str],
    regexes_to_ignore: Sequence[str] = (),
    **ignore: bool,
) -> list[bool]:
    """`evaluate`'s exact_match, in numpy as there."""
    import re

    sides = [np.asarray(list(side)) for side in (ours, theirs)]
    for pattern in regexes_to_ignore:
        sides = [np.array([re.sub(pattern, "", text) for text in side]) for side in sides]
    if ignore.get("ignore_case"):
        sides = [np.char.lower(side) for side in sides]
    for name, dropped in (
        ("ignore_punctuation", string.punctuation),
        ("ignore_numbers", string.digits),
    ):
        if ignore.get(name):
            sides = [np.char.translate(side, str.maketrans("", "", dropped)) for side in sides]
    return [bool(match) for match in sides[0] == sides[1]]


def test_exact_match_agrees_with_the_original_on_random_texts_and_options() -> None:
    random = np.random.default_rng(0)
    letters = list("aAbB12.,$ #")
    texts = ["".join(random.choice(letters, random.integers(0, 4))) for _ in range(400)]
    ours, theirs = texts[:200], texts[200:]
    for choice in range(16):
        options: dict[str, Any] = {
            "ignore_case": bool(choice & 1),
            "ignore_punctuation": bool(choice & 2),
            "ignore_numbers": bool(choice & 4),
        }
        if choice & 8:
            options["regexes_to_ignore"] = [",", r"\$", r"\.$", "a+"]
        expected = match_by_numpy(ours, theirs, **options)
        assert 0 < sum(expected) < 200
        assert exact(ours, theirs, **options) == expected


@pytest.mark.parametrize(("n", "stderr"), [(0, None), (1, None), (2, 0.0)])
def test_fewer_than_two_pairs_have_no_standard_error(n: int, stderr: float | None) -> None:
    texts = ExactMatch().compute(predictions=["x"] * n, references=["x"] * n)
    assert texts["exact_match"] == (1.0 if n else None)
    assert texts["exact_match_stderr"] == stderr


def test_pairs_may_come_one_by_one_as_evaluate_allows() -> None:
    metric = ExactMatch()
    for ours, theirs in (("a", "a"), ("b", "c")):
        metric.add(prediction=ours, reference=theirs)
    metric.add_batch(predictions=["d", "e"], references=["d", "d"])
    assert metric.compute()["exact_match"] == 0.5


# repetition


def test_repetition_is_the_share_of_four_grams_said_before() -> None:
    # Six 4-grams of which three are new; one, new; too short to have any.
    found = Repetition().compute(predictions=[[1, 2, 3, 1, 2, 3, 1, 2, 3], [1, 2, 3, 4], [1, 1]])
    assert found == {
        "repetition_rate": 0.25,
        "repetition_rate_stderr": pytest.approx(0.25),
        "n": 2,
    }
    assert Repetition().compute(predictions=[[5, 5, 5]], ngram=1)["repetition_rate"] == (
        pytest.approx(2 / 3)
    )
    assert Repetition().compute(predictions=[[1, 1, 1]])["repetition_rate"] is None


# On their own


@pytest.mark.parametrize("metric", CLASSES)
def test_every_score_is_an_evaluate_metric_that_describes_itself(metric: Any) -> None:
    made = metric()
    assert isinstance(made, evaluate.Metric)
    assert made.description
    assert "predictions" in made.features


def test_unequal_numbers_of_predictions_and_references_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predictions \(1\) and references \(2\)"):
        ExactMatch().compute(predictions=["a"], references=["a", "b"])


@pytest.mark.slow
def test_a_score_needs_no_hub_and_leaves_nothing_in_the_users_folders(tmp_path: Path) -> None:
    """In a process of its own: `evaluate` decides on its folders when it is imported."""
    code = (
        "from harness.scoring.scores import ExactMatch\n"
        "print(ExactMatch().compute(predictions=['x'], references=['x'])['exact_match'])\n"
    )
    home = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "PYTHONDONTWRITEBYTECODE": "1"}
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**outside, **home},
        check=True,
    )
    assert answer.stdout == "1.0\n"
    assert list(tmp_path.rglob("*")) == []


def test_evaluates_own_files_are_written_on_request(tmp_path: Path) -> None:
    metric = ExactMatch(keep_in_memory=False, cache_dir=str(tmp_path), experiment_id="x")
    assert (tmp_path / "exact_match" / "default").is_dir()
    found = metric.compute(predictions=["a", "b"], references=["a", "c"])
    assert found["exact_match"] == 0.5
