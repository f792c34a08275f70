"""Batches that follow the device: scripted seconds, scripted lack of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.engines.shared.batches import BatchSize, run_in_batches


def test_batches_shrink_until_they_fit() -> None:
    """8 do not fit, 4 do, and the size stays."""
    done: list[int] = []
    tried: list[int] = []

    def run(batch: Any) -> None:
        tried.append(len(batch))
        if len(batch) > 4:
            raise torch.OutOfMemoryError("out of memory")
        done.extend(batch)

    assert run_in_batches(range(10), 8, run) == 4
    assert done == list(range(10))
    assert tried == [8, 4, 4, 2]
    with pytest.raises(torch.OutOfMemoryError):
        run_in_batches(range(1), 8, lambda _: run([0] * 5))


CUBLAS = "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
LACKS_MEMORY = {
    "full": (CUBLAS, (100 << 20, 80 << 30), True),
    "of cuDNN": ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", (0, 80 << 30), True),
    "a broken driver": (CUBLAS, (40 << 30, 80 << 30), False),
    "no driver": (CUBLAS, RuntimeError("no CUDA"), False),
    "allocation": ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED", (40 << 30, 80 << 30), True),
    "another error": ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", (0, 80 << 30), False),
}


@pytest.mark.parametrize(("text", "memory", "halves"), LACKS_MEMORY.values(), ids=LACKS_MEMORY)
def test_a_library_that_cannot_start_lacks_memory_where_the_gpu_is_full(
    monkeypatch: pytest.MonkeyPatch, text: str, memory: Any, halves: bool
) -> None:
    def ask() -> Any:
        if isinstance(memory, Exception):
            raise memory
        return memory

    monkeypatch.setattr(torch.cuda, "mem_get_info", ask)
    tried: list[int] = []

    def run(batch: Any) -> None:
        tried.append(len(batch))
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="STATUS"):
        run_in_batches(range(4), 4, run)
    assert tried == ([4, 2, 1] if halves else [4])


def run_all(batch: BatchSize, seconds_of: Callable[[int], float], times: int = 20) -> int:
    """Full batches on a device that takes ``seconds_of(tokens)`` for one; the size in the end."""
    for _ in range(times):
        batch.ran(batch.tokens, seconds_of(batch.tokens))
    return batch.tokens


def test_a_batch_grows_while_a_token_gets_cheaper_by_a_tenth() -> None:
    """A pass costs 1 s and 1 ms a token: 2,048 tokens 1.49 ms each, 4,096 1.24, 8,192 1.12."""
    assert run_all(BatchSize(2048, grows=True), lambda tokens: 1 + tokens / 1000) == 4096
    assert run_all(BatchSize(2048), lambda tokens: 1 + tokens / 1000) == 2048


def test_where_larger_ones_are_slower_the_smaller_one_stays() -> None:
    batch = BatchSize(64, grows=True)
    assert run_all(batch, lambda tokens: tokens**2) == 64
    assert not batch.grows


def test_the_first_batch_of_a_size_may_be_slow() -> None:
    """What runs first loads its kernels."""
    batch = BatchSize(64, grows=True)
    seen: set[int] = set()

    def seconds_of(tokens: int) -> float:
        first = tokens not in seen
        seen.add(tokens)
        return 100.0 * first + (1.0 if tokens <= 256 else tokens)

    assert run_all(batch, seconds_of) == 256


def test_a_small_batch_teaches_nothing() -> None:
    batch = BatchSize(64, grows=True)
    for _ in range(10):
        batch.ran(32, 1.0)
    assert (batch.tokens, batch.grows) == (64, True)


def test_a_suite_s_own_number_is_a_bound_and_starts_from_what_was_learnt() -> None:
    learnt = BatchSize(64, grows=True)
    assert learnt.at_most("auto") is learnt
    assert run_all(learnt, lambda tokens: 1.0, times=4) == 256
    bound = learnt.at_most(600)
    assert bound.tokens == 256
    assert run_all(bound, lambda tokens: 1.0) == 512
    assert learnt.at_most(100).tokens == 100


def test_what_does_not_fit_ends_the_growing() -> None:
    batch = BatchSize(64, grows=True)
    batch.limit(40)
    assert run_all(batch, lambda tokens: 1.0) == 40
