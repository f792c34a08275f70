"""lambada: the last word, whether greedy decoding says it, its perplexity, and the pairs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engines.base import Engine
from harness.errors import InputError
from harness.records.record import Measured
from harness.statistics.estimates import exp_capped
from harness.suite.data_source import DataSource
from harness.tasks.lambada import TASK, Options, exp_mean, make_question
from harness.tasks.rows import Row
from tests.support.cells_in_process import load, make_context, write_checkpoint
from tests.support.records import make_record


@pytest.fixture
def cell(tmp_path: Path) -> Engine:
    return load(write_checkpoint(tmp_path / "model"))


def run(cell: Engine, folder: Path, *texts: str, **given: Any) -> Measured:
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "passages.jsonl").write_text("".join(lines), encoding="utf-8")
    options = Options(data=DataSource(path="passages.jsonl"), **given)
    return TASK.measure(cell, options, make_context(folder))


def logits_after(cell: Engine, text: str) -> torch.Tensor:
    tokenizer: Any = cell.require_tokenizer()
    with torch.no_grad():
        return cell.model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1].double()


# Prompts, as lm-evaluation-harness 0.4.13 builds them


@pytest.mark.parametrize(
    ("text", "prompt", "word"),
    [
        ("He called  the dog by its name, Rex", "He called  the dog by its name,", " Rex"),
        ("one\nlast word.", "one\nlast", " word."),
        ("two  spaces", "two ", " spaces"),
        ("Hello", "", " Hello"),
    ],
)
def test_the_last_word_follows_the_rest_of_the_text(text: str, prompt: str, word: str) -> None:
    question = make_question(Row({"text": text}, "row 1"), 7)
    assert (question.prompt, question.delimiter + question.options[0]) == (prompt, word)
    assert question.id == "lambada/7"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a b"}, r"unknown field 'text'; did you mean 'txt'\?"),
        ({"text": None}, "field 'text' is missing"),
        ({"text": "a b "}, "field 'text' ends with a space: which word is the last"),
        ({"text": ""}, "field 'text' ends with a space"),
        ({"text": ["a"]}, r"field 'text' holds \['a'\], expected a text"),
    ],
)
def test_a_malformed_passage_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=r"^passages\.jsonl, row 3: " + message):
        make_question(Row(row, "passages.jsonl, row 3"), 0)


# Measuring


def test_a_word_is_right_where_greedy_decoding_says_it(cell: Engine, tmp_path: Path) -> None:
    """The output head is set so that only `` A`` has a logit, the model's own state times itself:
    `` A`` is greedy, `` B`` is not, and both have a log-likelihood known in closed form."""
    head: Any = cell.model.lm_head
    tokenizer: Any = cell.require_tokenizer()
    ids = tokenizer("a llama")["input_ids"]
    with torch.no_grad():
        state = cell.model.model(torch.tensor([ids])).last_hidden_state[0, -1]
        head.weight.zero_()
        [letter] = tokenizer(" A", add_special_tokens=False)["input_ids"]
        head.weight[letter] = state / 8
    logit = float(state.double() @ state.double()) / 8
    total = math.log(math.exp(logit) + head.weight.shape[0] - 1)
    measured = run(cell, tmp_path, "a llama A", "a llama B")
    assert measured.items["right"] == "10"
    assert measured.values["acc"].value == 0.5
    assert measured.items["log_likelihoods"] == pytest.approx([logit - total, -total], abs=1e-5)
    assert measured.values["perplexity"].value == pytest.approx(math.exp(total - logit / 2))


def test_every_token_of_the_word_counts(cell: Engine, tmp_path: Path) -> None:
    """`` ab`` is a token per byte; the space before the word belongs to it."""
    measured = run(cell, tmp_path, "a llama ab")
    tokenizer: Any = cell.require_tokenizer()
    expected, text = 0.0, "a llama"
    for piece in (" ", "a", "b"):
        [token] = tokenizer(piece, add_special_tokens=False)["input_ids"]
        expected += float(torch.log_softmax(logits_after(cell, text), -1)[token])
        text += piece
    assert measured.items["log_likelihoods"] == pytest.approx([expected], abs=1e-5)
    assert measured.values["perplexity"].value == pytest.approx(math.exp(-expected))
    assert measured.values["perplexity"].stderr is None


def test_every_value_is_reported_and_the_batch_size_is_no_part_of_the_protocol(
    cell: Engine, tmp_path: Path
) -> None:
    texts = ("a llama eats grass", "the sun is hot", "Hello")
    one, other = (run(cell, tmp_path, *texts, batch_tokens=size) for size in (1, 4096))
    assert set(one.values) == {name for name, spec in TASK.values.items() if not spec.paired}
    assert one.protocol == other.protocol
    assert one.items["log_likelihoods"] == pytest.approx(other.items["log_likelihoods"], abs=1e-5)
    assert {column.value for column in TASK.headline} <= set(TASK.values)
    assert run(cell, tmp_path, *texts, limit=2).values["items"].value == 2


def test_passages_that_are_too_long_are_counted_and_flagged(cell: Engine, tmp_path: Path) -> None:
    measured = run(cell, tmp_path, "a llama A", f"{'x' * 300} A")
    assert measured.validity.reasons == ("1 prompts exceed the model's context; not scored",)
    assert measured.items["right"][1] == "-"
    assert [measured.values[name].value for name in ("items", "too_long")] == [1, 1]
    with pytest.raises(InputError, match="every 0-shot prompt is longer than the 256 tokens of m"):
        run(cell, tmp_path, f"{'x' * 300} A")


def test_a_passage_that_occurs_twice_is_refused(cell: Engine, tmp_path: Path) -> None:
    """The same beginning with another last word is another."""
    assert run(cell, tmp_path, "a llama A", "a llama B").values["items"].value == 2
    with pytest.raises(
        InputError, match=r"jsonl, row 3: the same field 'text' as in passages\.jsonl, row 1; each"
    ):
        run(cell, tmp_path, "a llama A", "a llama B", "a llama A")


# Values


def test_the_perplexity_and_its_spread_by_hand() -> None:
    """exp((1 + 2 + 6)/3) = e^3; the deviations are -2, -1, 3: sd = sqrt(7)."""
    value = exp_mean("perplexity", [1.0, 2.0, 6.0])["perplexity"]
    assert value.value == pytest.approx(math.exp(3))
    assert value.stderr == pytest.approx(math.exp(3) * math.sqrt(7 / 3))
    assert value.n == 3


def pair(ours: list[float | None], theirs: list[float | None]) -> dict[str, Any]:
    records = (
        make_record(
            "lambada",
            items={
                "right": "".join("-" if x is None else "01"[x > -1] for x in side),
                "log_likelihoods": side,
            },
        )
        for side in (ours, theirs)
    )
    return TASK.compare(*records)


def test_the_perplexity_ratio_is_of_the_same_items_by_hand() -> None:
    """NLL differences 0.5, 0.1 of the two items that both sides scored: mean 0.3."""
    found = pair([-1.5, -2.1, None, -9.0], [-1.0, -2.0, -0.5, None])
    assert found["perplexity_ratio"].value == pytest.approx(math.exp(0.3))
    assert found["perplexity_ratio"].stderr == pytest.approx(math.exp(0.3) * 0.2)
    assert found["perplexity_ratio"].n == 2


def test_a_perplexity_beyond_any_float_is_the_largest_one() -> None:
    """exp(709) is a float, exp(710) none; so is the ratio of two that far apart."""
    largest = sys.float_info.max
    assert exp_capped(709.0) == math.exp(709.0) < exp_capped(710.0)
    assert exp_capped(710.0) == exp_capped(1e9) == pytest.approx(largest)
    value = exp_mean("perplexity", [800.0, 900.0])["perplexity"]
    assert (value.value, value.stderr) == (pytest.approx(largest), None)
    ratio = pair([-800.0, -900.0], [-1.0, -2.0])["perplexity_ratio"]
    assert (ratio.value, ratio.stderr) == (pytest.approx(largest), None)


def test_equal_records_have_ratio_one_and_no_flips() -> None:
    found = pair([-0.5, -2.0], [-0.5, -2.0])
    assert found["perplexity_ratio"].value == 1.0
    assert found["accuracy_drop"].value == found["flip_rate"].value == 0.0
    assert set(found) <= set(TASK.values)


def test_records_of_other_items_are_not_compared() -> None:
    assert pair([-1.0], [-1.0, -2.0]) == {}
