"""What the comparison with lm-evaluation-harness makes of both sides' numbers; needs no lm-eval."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.records.questions import Question
from harness.scoring.multiple_choice import Scored

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import parity  # noqa: E402
from peer import items, table  # noqa: E402
from peer.processes import run  # noqa: E402


def test_a_ratio_is_of_pairs_and_its_median_is_judged() -> None:
    ratio = table.Ratio("x", "s", theirs=(30.0, 8.0, 60.0), ours=(2.0, 1.0, 2.0), target=15)
    assert ratio.pairs == [15.0, 8.0, 30.0]
    assert ratio.met
    assert ratio.describe()["ratio"] == {"median": 15.0, "min": 8.0, "max": 30.0}
    assert not table.Ratio("x", "s", (29.9, 8.0, 60.0), (2.0, 1.0, 2.0), target=15).met
    assert table.Ratio("x", "s", (1.0,), (100.0,)).met  # nothing was promised


def test_two_numbers_agree_within_a_share_of_lm_eval_s() -> None:
    assert table.Agreement("x", 2.0, 2.0002, 1e-4).met
    assert not table.Agreement("x", 2.0, 2.00021, 1e-4).met
    assert table.Agreement("x", 0.0, 0.0, 1e-4).met
    assert not table.Agreement("x", 2.0, float("nan"), 1e-4).met


def test_the_table_says_what_was_missed() -> None:
    rows = [
        table.Ratio("scoring", "s", (30.0, 32.0), (2.0, 2.0), target=15),
        table.Ratio("memory", "bytes", (2 << 20,), (1 << 20,), target=3),
    ]
    lines = [" ".join(line.split()) for line in table.format_ratios(rows).splitlines()]
    assert lines[1:] == [
        "scoring 31.00 s 2.00 s 15.50× (15.00 to 16.00) 15× met",
        "memory 2 MiB 1 MiB 2.00× (2.00 to 2.00) 3× NOT MET",
    ]


QUESTION = Question("s/0", "s", "Q", ("yes", "maybe so"), answer=0)
PROMPTS = [("Q", " yes"), ("Q", " maybe so")]


def sample(first: float, second: float, **given: Any) -> dict[str, Any]:
    """What lm-eval keeps of one item; right in both ways unless told."""
    answers = [(first, False), (second, False)]
    return {"arguments": PROMPTS, "filtered_resps": answers, "acc": 1.0, "acc_norm": 1.0, **given}


def compare(ours: Scored, theirs: dict[str, Any]) -> parity.Compared:
    return parity.compare_choices("x", [ours], [theirs])


def test_log_likelihoods_may_differ_by_a_ten_thousandth() -> None:
    near = compare(Scored(QUESTION, (-2.0, -9.0)), sample(-2.0, -9.00009))
    assert near.worst_nats == pytest.approx(9e-5)
    assert near.met
    assert not compare(Scored(QUESTION, (-2.0, -9.0)), sample(-2.0, -9.00011)).met


def test_another_answer_counts_unless_it_is_a_tie() -> None:
    # As far as the answer goes: the log-likelihoods alone would have failed it.
    other = compare(Scored(QUESTION, (-2.0, -2.1)), sample(-2.1, -2.0, acc=0.0, acc_norm=0.0))
    assert other.answers == 1
    tied = compare(Scored(QUESTION, (-2.0, -2.00001)), sample(-2.00001, -2.0, acc=0.0))
    assert (tied.answers, tied.ties) == (0, 1)


def test_the_answer_per_character_counts_by_itself() -> None:
    # -3/3 per character beside -4/8: the first is likelier, the second is likelier per character.
    found = compare(Scored(QUESTION, (-3.0, -4.0)), sample(-3.0, -4.0, acc_norm=0.0))
    assert (found.answers, found.answers_norm) == (0, 0)
    assert compare(Scored(QUESTION, (-3.0, -4.0)), sample(-3.0, -4.0)).answers_norm == 1
    plain = sample(-3.0, -4.0)
    del plain["acc_norm"]
    assert compare(Scored(QUESTION, (-3.0, -4.0)), plain).met


@pytest.mark.parametrize(("second", "tied"), [(-8.0026, True), (-8.0027, False)])
def test_a_tie_per_character_is_as_wide_as_the_shorter_option_makes_it(
    second: float, tied: bool
) -> None:
    assert parity.is_tied([-3.0, second], [3, 8]) is tied


def test_a_prompt_left_out_is_counted_and_not_compared() -> None:
    left_out = compare(Scored(QUESTION, None), sample(-9.0, -1.0))
    assert (left_out.items, left_out.left_out, left_out.worst_nats) == (0, 1, 0.0)
    assert not left_out.met  # nothing compared proves nothing


def test_another_prompt_is_told() -> None:
    other = [("Q", " yes"), ("Q ", "maybe so")]
    found = compare(Scored(QUESTION, (-2.0, -9.0)), sample(-2.0, -9.0, arguments=other))
    assert found.prompts == 1
    assert not found.met


def test_both_sides_get_the_same_questions(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    rows = [['What, "so"?\nTwo lines', "a", "b", "c", "None", "C"], ["é", "1", "2", "3", "4", "A"]]
    for split in ("dev", "test"):
        path = data / "mmlu" / split / f"x_{split}.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    items.write_mmlu(work, data, "x", limit=1)
    for split, kept in (("dev", 2), ("test", 1)):
        assert items.read_mmlu(work, "x", split) == rows[:kept]
        lines = (work / f"mmlu_x_{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["choices"] for line in lines] == [r[1:5] for r in rows[:kept]]
        assert json.loads(lines[0])["answer"] == 2
    with pytest.raises(SystemExit, match="subjects there: x"):
        items.read_mmlu(data, "y", "test")


@pytest.mark.parametrize(("size", "kept"), [(11, "ä b\nc d\n"), (13, "ä b\nc d\ne f\n"), (3, "ä ")])
def test_a_text_ends_with_a_line(tmp_path: Path, size: int, kept: str) -> None:
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "wiki.test.raw").write_text("ä b\nc d\ne f\n", encoding="utf-8")
    path = items.write_text(tmp_path, tmp_path, size)
    assert path.read_text(encoding="utf-8") == kept
    assert json.loads((tmp_path / "wiki.jsonl").read_text()) == {"page": kept}


def test_a_process_is_measured_with_its_children(tmp_path: Path) -> None:
    """The child holds 64 MiB for a moment; its mark outlives the moment."""
    child = "import time; x = bytearray(64 << 20); del x; time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    ran = run([sys.executable, "-S", "-c", parent], tmp_path, threads=1)
    assert ran.largest_bytes > 64 << 20
    assert ran.largest_bytes < ran.peak_bytes < 1.5 * ran.largest_bytes
    with pytest.raises(SystemExit, match="ended with 3"):
        run([sys.executable, "-S", "-c", "import sys; sys.exit(3)"], tmp_path, threads=1)
