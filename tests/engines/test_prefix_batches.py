"""How much of the prompts' tree goes together: bounded logits and masks, and what memory holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from harness.engines.shared.batches import BatchSize
from harness.engines.transformers import prefix_scoring
from harness.engines.transformers.prefix_scoring import predict_tokens
from tests.support.prefixes import (
    VOCABULARY,
    check_equal,
    make_rows,
    make_targets,
    predict,
    predict_alone,
    read_llama,
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_llama(tmp_path_factory.mktemp("prefix") / "model")


def test_logits_are_bounded(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, sizes = make_rows(), []
    monkeypatch.setitem(prefix_scoring.LOGIT_BYTES, "cpu", 4 * VOCABULARY * 20)
    hook = llama.lm_head.register_forward_hook(
        lambda module, given, logits: sizes.append(logits[..., 0].numel())
    )
    found, _ = predict(llama, rows, 10_000)
    hook.remove()
    check_equal(found, predict_alone(llama, rows))
    assert max(sizes) <= 20


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_are_bounded_and_of_the_form_that_kernels_take_without_a_copy(
    llama: Any, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    """Of 4 bytes a cell; room for 64 x 64, less behind a past."""
    rows, masks, cells = make_rows(), [], 64 * 64
    monkeypatch.setattr(prefix_scoring, "MASK_BYTES", 4 * cells)
    monkeypatch.setattr(llama.config, "_attn_implementation", attention)
    hook = llama.register_forward_pre_hook(
        lambda module, _, given: masks.append(given.get("attention_mask")), with_kwargs=True
    )
    found, cost = predict(llama, rows, 10_000)
    hook.remove()
    check_equal(found, predict_alone(llama, rows))
    assert cost.tokens_forwarded == cost.tokens_unique
    made = [mask for mask in masks if mask is not None]
    assert 0.8 * cells < max(mask.numel() for mask in made) <= cells
    assert max(mask.shape[3] - mask.shape[2] for mask in made) > 0
    for mask in made:
        assert mask.dtype == torch.float32
        assert mask.stride(2) % 8 == 0
        assert mask.stride(3) == 1


def test_what_is_sent_to_the_device_grows_with_a_slice_not_with_its_mask(llama: Any) -> None:
    sent: list[int] = []

    class Sent(TorchFunctionMode):
        def __torch_function__(
            self, call: Any, types: Any, given: Any = (), named: Any = None
        ) -> Any:
            named = named or {}
            if call is torch.Tensor.to and "cpu" in map(str, (*given[1:], *named.values())):
                sent.append(given[0].numel())
            return call(*given, **named)

    with Sent():
        predict(llama, make_rows(), 100)
    assert max(sent) == 100


def refuse_more_than(model: Any, tokens: int) -> Any:
    """What a card does when a batch does not fit, at the model's own door."""

    def check(module: Any, given: Any, arguments: dict[str, Any]) -> None:
        if arguments["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return model.register_forward_pre_hook(check, with_kwargs=True)


def test_batches_shrink_when_memory_runs_out_and_report_their_size(
    llama: Any,
) -> None:
    rows = make_rows()
    hook = refuse_more_than(llama, 40)
    try:
        found, cost = predict(llama, rows, 1_000)
    finally:
        hook.remove()
    check_equal(found, predict_alone(llama, rows))
    assert cost.batch_tokens < 1_000
    assert cost.tokens_forwarded == cost.tokens_unique


def test_on_a_device_that_likes_large_batches_they_grow_until_memory_ends(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass takes a second however large, and 80 tokens fit: 8, 16, 32, 64, then 128 fails."""
    rows, sizes = make_rows(), []
    expected, _ = predict(llama, rows, 10_000)
    clock = SimpleNamespace(now=0.0)

    def tick(module: Any, given: Any, arguments: dict[str, Any]) -> None:
        tokens = arguments["input_ids"].numel()
        if "past_key_values" in arguments or tokens == 8:  # not the check's own
            sizes.append(tokens)
        clock.now += 1
        if tokens > 80:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(prefix_scoring.time, "perf_counter", lambda: clock.now)
    hook = llama.register_forward_pre_hook(tick, with_kwargs=True)
    found: dict[Any, tuple[float, bool]] = {}
    batch = BatchSize(8, grows=True)
    try:
        predict_tokens(
            llama,
            "cpu",
            rows,
            make_targets(rows),
            lambda key, *score: found.update({key: score}),
            batch,
        )
    finally:
        hook.remove()
    assert sizes[:10] == [8, 8, 16, 16, 32, 32, 64, 64, 128, 64]
    assert (batch.tokens, batch.grows) == (64, False)
    check_equal(found, expected)


def test_a_check_that_does_not_fit_tells_no_token_twice(llama: Any) -> None:
    """The whole row is longer than what any batch behind the prefix computes."""
    prefix = tuple(range(3, 53))
    rows = [(*prefix, 60 + i, 70 + i) for i in range(3)]

    def refuse(module: Any, given: Any, arguments: dict[str, Any]) -> None:
        if arguments["input_ids"].shape[1] > len(prefix):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = llama.register_forward_pre_hook(refuse, with_kwargs=True)
    scored: list[Any] = []
    try:
        with pytest.raises(torch.OutOfMemoryError):
            predict_tokens(
                llama,
                "cpu",
                rows,
                make_targets(rows),
                lambda key, *_: scored.append(key),
                BatchSize(1_000),
            )
    finally:
        hook.remove()
    assert scored == []


def test_one_row_that_does_not_fit_raises(llama: Any) -> None:
    hook = refuse_more_than(llama, 10)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            predict(llama, make_rows(), 1_000)
    finally:
        hook.remove()


def test_other_errors_are_not_taken_for_a_lack_of_memory(llama: Any) -> None:
    def fail(module: Any, given: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    hook = llama.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="device-side assert"):
            predict(llama, make_rows(), 1_000)
    finally:
        hook.remove()
