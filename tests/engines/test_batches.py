"""Batches that shrink where memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.engines.shared.batches import run_in_batches


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
