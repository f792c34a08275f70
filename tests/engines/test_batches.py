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
