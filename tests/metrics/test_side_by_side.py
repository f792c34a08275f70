"""side_by_side: the answers themselves, where they differ, how much they repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.engines.base import Engine
from harness.metrics.side_by_side import (
    METRIC,
    VALUES,
    Options,
    compare,
    first_difference,
    measure,
)
from harness.records.record import Measured, Record
from harness.scoring.scores import repeated_share
from harness.verdicts.pairing import complete_record, is_noise
from tests.support.cells_in_process import load, make_context, write_checkpoint
from tests.support.records import make_record
from tests.support.suite_files import load_parts

PROMPTS = ("Once", "A dog and a cat", "x y")


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(write_checkpoint(tmp_path_factory.mktemp("side") / "model", seed=5))


def run(cell: Engine, prompts: Any = PROMPTS, **given: Any) -> Measured:
    options = Options(prompts=prompts, **{"max_new_tokens": 12, **given})
    return measure(cell, options, make_context(Path("/")))


def record(tokens: list[list[int] | None], precision: str = "fp32") -> Record:
    return make_record("side_by_side", precision, items={"tokens": tokens})


def test_prompts_answers_and_tokens_are_kept_in_the_items(cell: Engine) -> None:
    measured = run(cell)
    items = measured.items
    assert items["prompts"] == list(PROMPTS)
    assert [len(tokens) for tokens in items["tokens"]] == [12, 12, 12]
    tokenizer: Any = cell.tokenizer
    assert items["texts"] == [tokenizer.decode(tokens) for tokens in items["tokens"]]
    assert items["stopped"] == ["length"] * 3
    assert items["cost"] == {"batch_tokens": 16384}
    counts = {name: measured.values[name].value for name in ("items", "too_long", "new_tokens")}
    assert counts == {"items": 3, "too_long": 0, "new_tokens": 36}
    assert measured.validity.status == "ok"


def test_the_protocol_holds_what_answers_depend_on_without_the_batch(cell: Engine) -> None:
    measured = run(cell)
    assert measured.protocol == run(cell, batch_tokens=1).protocol
    assert measured.values == run(cell, batch_tokens=1).values
    assert measured.protocol["prompts"] == list(PROMPTS)
    assert measured.protocol["decoding"] == "greedy"
    assert measured.protocol != run(cell, max_new_tokens=11).protocol


def test_repetition_and_empty_answers_are_counted(cell: Engine) -> None:
    measured = run(cell, max_new_tokens=40)
    shares = [repeated_share(tokens) for tokens in measured.items["tokens"]]
    assert None not in shares
    rate = measured.values["repetition_rate"]
    assert rate.value == pytest.approx(sum(s for s in shares if s is not None) / 3)
    assert rate.n == 3
    assert measured.values["empty_rate"].value == 0.0


def test_an_answer_of_spaces_is_empty_and_a_short_one_repeats_nothing(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real model whose answers are replaced by those of a broken one."""
    import torch

    tokenizer: Any = cell.tokenizer
    [space] = tokenizer(" ", add_special_tokens=False)["input_ids"]

    def say_nothing(*, input_ids: Any, **_: Any) -> Any:
        return torch.nn.functional.pad(input_ids, (0, 3), value=space)

    monkeypatch.setattr(cell.model, "generate", say_nothing)
    measured = run(cell)
    assert measured.items["texts"] == ["   "] * 3
    assert measured.values["empty_rate"].value == 1.0
    rate = measured.values["repetition_rate"]
    assert (rate.value, rate.n) == (None, 0)


def test_a_prompt_that_leaves_no_room_is_flagged_and_left_out_of_the_pairs(
    cell: Engine,
) -> None:
    measured = run(cell, ["x" * 250, "x"])
    assert measured.items["texts"][0] is None
    assert measured.items["tokens"][0] is None
    assert (measured.values["items"].value, measured.values["too_long"].value) == (1, 1)
    assert measured.validity.status == "flagged"
    assert measured.validity.reasons == ("1 prompts exceed the model's context; not answered",)
    both = make_record("side_by_side", measured=measured)
    assert compare(both, both)["identical_rate"].n == 1


# Against the reference


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3], [1, 2, 4], 2),
        ([5, 2, 3], [1, 2, 3], 0),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2], 2),
        ([], [1], 0),
        ([], [], 0),
    ],
)
def test_the_first_difference_is_counted_in_tokens_from_zero(
    ours: list[int], theirs: list[int], expected: int
) -> None:
    assert first_difference(ours, theirs) == expected


def test_the_median_counts_equal_answers_with_their_length() -> None:
    reference = record([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], None])
    candidate = record([[1, 2, 3, 4], [1, 9, 3, 4], [1, 2, 3, 4, 5, 7], [1]], "nf4")
    found = compare(candidate, reference)
    assert set(found) == {name for name, spec in VALUES.items() if spec.paired}
    assert found["first_difference_median"].value == 4  # of 4, 1, 5
    assert found["identical_rate"].value == pytest.approx(1 / 3)
    assert found["identical_rate"].stderr == pytest.approx((1 / 3 * 2 / 3 / 2) ** 0.5)
    assert {value.n for value in found.values()} == {3}


def test_a_model_compared_with_itself_gives_the_same_answers(cell: Engine) -> None:
    measured = make_record("side_by_side", measured=run(cell))
    found = compare(measured, measured)
    assert found["identical_rate"].value == 1.0
    assert found["first_difference_median"].value == 12


def test_without_a_pair_there_is_nothing_to_compare() -> None:
    assert compare(record([None]), record([[1]])) == {}
    assert compare(make_record("side_by_side"), record([[1]])) == {}


def test_another_precision_answers_differently(cell: Engine, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", seed=5)
    four_bits = make_record("side_by_side", "nf4", measured=run(load(folder, "nf4")))
    found = compare(four_bits, make_record("side_by_side", measured=run(cell)))
    assert found["identical_rate"].value == 0.0
    assert found["first_difference_median"].value < 12  # type: ignore[operator]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3], None),
        ([1, 2, 3, 4], 0.0),
        ([1, 1, 1, 1, 1], 0.5),
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),
    ],
)
def test_a_repeated_share_needs_four_tokens(tokens: list[int], expected: float | None) -> None:
    assert repeated_share(tokens) == (None if expected is None else pytest.approx(expected))


def test_prompts_are_required_and_not_empty() -> None:
    assert Options(prompts=["a"]).prompts == ("a",)
    for wrong in ({}, {"prompts": []}, {"prompts": ["a", ""]}, {"prompts": [1]}):
        with pytest.raises(ValidationError):
            Options(**wrong)


def test_only_a_difference_in_answers_is_measured_against_the_noise_floor(
    tmp_path: Path,
) -> None:
    """A long common start is not noise, however long the reference's own with itself is."""
    suite = load_parts(tmp_path, measure="measure: {side_by_side: {prompts: [a]}}")
    reference = record([[1, 2, 3, 4]])
    again = record([[1, 2, 3, 4]]).model_copy(update={"noise": True})
    candidate = complete_record(suite, record([[1, 2, 9, 4]], "nf4"), reference, again)
    found = candidate.paired["first_difference_median"]
    assert (found.value, found.floor) == (2, None)
    assert not is_noise(found, VALUES["first_difference_median"])
    assert candidate.paired["identical_rate"].floor == 0.0


def test_the_headline_shows_both_comparisons() -> None:
    assert [(c.title, format(0.5, c.format)) for c in METRIC.headline] == [
        ("same\ntext", "50%"),
        ("1st diff\ntoken", "0.5"),
    ]
