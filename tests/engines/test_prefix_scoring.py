"""Tokens predicted behind shared prefixes, against each sequence computed alone."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch

from harness.engines.base import Target
from harness.engines.shared.batches import BatchSize
from harness.engines.transformers.prefix_cache import can_share
from harness.engines.transformers.prefix_scoring import predict_tokens
from tests.support.prefixes import (
    VOCABULARY,
    check_equal,
    make_bart,
    make_gpt2,
    make_gpt_neo,
    make_longrope,
    make_mamba,
    make_mistral,
    make_mpt,
    make_rows,
    make_targets,
    predict,
    predict_alone,
    read_llama,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_llama(tmp_path_factory.mktemp("prefix") / "model")


@pytest.mark.parametrize("batch_tokens", [1, 60, 100, 10_000])
def test_a_llama_predicts_as_if_each_row_were_alone(llama: Any, batch_tokens: int) -> None:
    rows = make_rows()
    found, cost = predict(llama, rows, batch_tokens)
    check_equal(found, predict_alone(llama, rows))
    assert cost.tokens_forwarded == cost.tokens_unique < 0.6 * sum(map(len, rows))
    assert cost.tokens_padding == 0
    assert cost.passes == -(-cost.tokens_unique // batch_tokens)
    assert cost.batch_tokens == batch_tokens


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_a_model_with_absolute_positions_too(batch_tokens: int) -> None:
    model, rows = make_gpt2(), make_rows(1, longest=40)
    assert max(map(len, rows)) == 40 == model.config.n_positions
    found, cost = predict(model, rows, batch_tokens)
    check_equal(found, predict_alone(model, rows))
    assert cost.tokens_forwarded == cost.tokens_unique


@pytest.mark.parametrize(
    ("make", "shares"),
    [
        (lambda: make_mistral(None), True),
        (lambda: make_mistral(16), False),  # what left the window is not in the cache any more
        (make_mamba, False),
    ],
)
def test_a_cache_that_cannot_be_cut_and_copied_is_not(make: Any, shares: bool) -> None:
    model, rows = make(), make_rows(2)[:12]
    assert can_share(model) is shares
    found, cost = predict(model, rows, 10_000 if shares else 1)
    check_equal(found, predict_alone(model, rows))
    assert (cost.tokens_forwarded == sum(map(len, rows))) is not shares


@pytest.mark.parametrize("make", [make_gpt_neo, make_mpt])
@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_a_model_that_counts_the_cache_s_columns_finds_no_padding_in_it(
    make: Any, batch_tokens: int
) -> None:
    model, rows = make(), make_rows(3)
    found, cost = predict(model, rows, batch_tokens)
    check_equal(found, predict_alone(model, rows))
    assert cost.unshared == ""
    assert cost.tokens_forwarded == cost.tokens_unique


def test_a_cache_of_another_build_is_found_out_on_the_way() -> None:
    """BART's decoder keeps a place for what an encoder would give."""
    model, rows = make_bart(), make_rows(3)
    assert can_share(model)
    found, cost = predict(model, rows, 1_000)
    check_equal(found, predict_alone(model, rows))
    assert cost.tokens_forwarded == sum(map(len, rows))
    assert cost.unshared == ""


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_longrope_is_given_rows_of_one_side_of_its_boundary_only(batch_tokens: int) -> None:
    model, rows = make_longrope(), make_rows(4)
    assert min(map(len, rows)) <= 30 < max(map(len, rows))
    found, _ = predict(model, rows, batch_tokens)
    check_equal(found, predict_alone(model, rows))
    assert not can_share(model)


def test_a_model_that_does_not_go_on_from_its_cache_is_found_and_computed_whole(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As code of a model's own might: it takes a cache and starts its positions at 0 again."""
    rows, forward = make_rows(), type(llama).forward

    def restart(self: Any, input_ids: Any, past_key_values: Any = None, **given: Any) -> Any:
        positions = torch.arange(input_ids.shape[1])[None]
        return forward(
            self, input_ids, past_key_values=past_key_values, position_ids=positions, **given
        )

    restart.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(type(llama), "forward", restart)
    found, cost = predict(llama, rows, 1_000)
    check_equal(found, predict_alone(llama, rows))
    assert "does not go on from its cache" in cost.unshared
    assert cost.tokens_forwarded == sum(map(len, rows))


def test_of_equally_likely_tokens_the_first_is_the_greedy_one(llama: Any) -> None:
    """16-bit logits tie often; `generate` takes the first."""
    model = copy.deepcopy(llama)
    row = (5, 6, 7, 8)
    with torch.no_grad():
        best = int(model(torch.tensor([row])).logits[0, -1].argmax())
        other = (best + 1) % VOCABULARY if best + 1 < VOCABULARY else best - 1
        model.lm_head.weight[other] = model.lm_head.weight[best]
    found: dict[Any, bool] = {}
    targets = [Target(0, 3, token, token) for token in (best, other)]
    predict_tokens(
        model,
        "cpu",
        [row],
        targets,
        lambda key, _, likeliest: found.update({key: likeliest}),
        BatchSize(10),
    )
    assert found == {min(best, other): True, max(best, other): False}


def test_what_follows_the_longest_prefix_may_end_before_it(llama: Any) -> None:
    """Rows that begin other rows, and targets inside a shared prefix, wanted by each of them."""
    rows: list[tuple[int, ...]] = [(5, 6, 7, 8, 9), (5, 6, 7), (5, 6, 7, 8, 20, 21), (5,)]
    found, cost = predict(llama, rows, 100)
    check_equal(found, predict_alone(llama, rows))
    assert cost.tokens_unique == 7


def test_progress_ends_with_every_row(llama: Any) -> None:
    rows, seen = make_rows(), []
    predict_tokens(
        llama,
        "cpu",
        rows,
        make_targets(rows),
        lambda *_: None,
        BatchSize(100),
        lambda *step: seen.append(step),
    )
    assert seen[-1] == (len(rows), len(rows))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
