"""The check of what is shared: rounding is no false alarm, a wrong cache is found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import harness.builtin
from harness.engines.base import Cost, Target
from harness.engines.shared.batches import BatchSize
from harness.engines.transformers import prefix_scoring
from harness.engines.transformers.prefix_cache import OpenPath
from harness.engines.transformers.prefix_scoring import predict_tokens
from harness.scoring.multiple_choice import score_questions
from harness.suite.data_source import DataSource
from harness.tasks import mmlu
from tests.support.cells_in_process import load, make_context, write_llama
from tests.support.prefixes import (
    make_rows,
    predict,
    read_llama,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_llama(tmp_path_factory.mktemp("prefix") / "model")


PRECISIONS = ["bf16", "fp16", "int8", "nf4"]
BUILTIN = Path(harness.builtin.__file__).parent / "tiny-world" / "model"


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return {precision: load(BUILTIN, precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def quiz(trained: dict[str, Any]) -> tuple[list[tuple[int, ...]], list[Target]]:
    """Rows of the embedded quiz behind two examples, and the answers' letters."""
    sent: list[Any] = []
    cell = trained["bf16"]
    options = mmlu.Options(data=DataSource(path=str(BUILTIN.parent / "quiz")), shots=2, limit=4)
    questions = mmlu.load_questions(options, make_context(Path("/")))

    class Caught:
        """The cell, but for its scores: they are not asked for."""

        job, max_context = cell.job, cell.max_context
        require_tokenizer = cell.require_tokenizer

        def score_targets(self, rows: Any, targets: Any, on_token: Any, *_: Any) -> Cost:
            sent[:] = rows, targets
            for target in targets:
                on_token(target.key, 0.0, False)
            return Cost(0, 0, 0, 0, 0)

    score_questions(Caught(), questions, "auto", make_context(Path("/")))  # type: ignore[arg-type]
    rows, targets = sent
    return rows, targets


def check_sharing(cell: Any, quiz: Any, batch_tokens: int) -> Cost:
    rows, targets = quiz
    return predict_tokens(
        cell.model, "cpu", rows, targets, lambda *_: None, BatchSize(batch_tokens)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch_tokens", [100, 512])
def test_rounding_is_no_false_alarm(
    trained: dict[str, Any], quiz: Any, precision: str, batch_tokens: int
) -> None:
    cost = check_sharing(trained[precision], quiz, batch_tokens)
    assert cost.unshared == ""
    assert cost.tokens_forwarded == cost.tokens_unique


@pytest.mark.parametrize("precision", ["fp32", *PRECISIONS])
def test_a_cache_that_is_wrong_is_found_in_every_precision(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are one token late, as off-by-one code would have them."""
    cell, rows = load(write_llama(tmp_path / "model"), precision), make_rows()
    assert predict(cell.model, rows, 100)[1].unshared == ""
    whole = OpenPath.open_cache

    def shifted(self: OpenPath) -> Any:
        layers = [(keys.roll(1, -2), values) for keys, values in self.layers]
        return whole(OpenPath(layers, self.entries, self.ends))

    monkeypatch.setattr(OpenPath, "open_cache", shifted)
    _, cost = predict(cell.model, rows, 100)
    assert "does not go on from its cache" in cost.unshared
    assert cost.tokens_forwarded == sum(map(len, rows))


@pytest.mark.parametrize(("precision", "found"), [("nf4", True), ("int8", False)])
def test_a_tenth_of_a_nat_is_too_much_unless_inputs_are_rounded_to_integers(
    trained: dict[str, Any], quiz: Any, monkeypatch: pytest.MonkeyPatch, precision: str, found: bool
) -> None:
    """nf4 stores weights in 4 bits; its products are float32's, as everything is on a CPU."""
    whole = prefix_scoring.LogitPicker.read

    def read(self: Any, ids: Any, places: Any, keep_cache: Any, *given: Any, **named: Any) -> Any:
        logits, cache = whole(self, ids, places, keep_cache, *given, **named)
        if not named and not keep_cache and not given:  # token 0 takes a tenth of a nat from all
            others = logits[:, 1:].logsumexp(-1)
            logits[:, 0] = others + math.log(math.expm1(0.1))
        return logits, cache

    monkeypatch.setattr(prefix_scoring.LogitPicker, "read", read)
    unshared = check_sharing(trained[precision], quiz, 100).unshared
    assert ("are 0.1 nats from those" in unshared) is found


def test_one_token_far_off_is_no_false_alarm_but_most_of_them_are(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that computes a prompt whole is wrong by a nat at some of its last positions."""
    rows, whole = make_rows(), prefix_scoring.LogitPicker.read
    wrong: list[int] = []

    def read(self: Any, ids: Any, places: Any, keep_cache: Any, *given: Any, **named: Any) -> Any:
        logits, cache = whole(self, ids, places, keep_cache, *given, **named)
        if not named and not keep_cache and not given:
            logits[: wrong[-1], :50] += 3
        return logits, cache

    monkeypatch.setattr(prefix_scoring.LogitPicker, "read", read)
    for count, says in ((1, ""), (8, "on average of")):
        wrong.append(count)
        unshared = predict(llama, rows, 100)[1].unshared
        assert (says in unshared) if says else unshared == ""
