"""benchmarks/gpu: the two sides of the comparisons that are timed on a GPU, with stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gpu.attention import ROUNDS, time_both
from gpu.scoring import score_plainly

from harness.engines.base import Target
from harness.engines.shared.attention_kernels import cudnn_attention

cudnn_is_on = torch.backends.cuda.cudnn_sdp_enabled


class Generator:
    """Takes a second per token, and for the very first generation a hundred."""

    def __init__(self) -> None:
        self.cudnn: list[bool] = []

    def run(self, prompt: torch.Tensor, new_tokens: int) -> Any:
        each = 1.0 if self.cudnn else 100.0
        self.cudnn.append(cudnn_is_on())  # type: ignore[no-untyped-call]
        return SimpleNamespace(ready=[each * (token + 1) for token in range(new_tokens)])


def test_what_the_first_pass_of_a_shape_costs_is_on_neither_side() -> None:
    generator = Generator()
    engine = SimpleNamespace(
        vocabulary=9, device="cpu", open_generator=lambda cache, compiled: generator
    )
    row = time_both(engine, batch=1, prompt_tokens=4, new_tokens=3)
    assert generator.cudnn[0] is False
    for side in ("with_cudnn", "without"):
        times = {name: value for name, value in row[side].items() if name.endswith("_s")}
        assert set(times.values()) == {1.0}, side
    timed = generator.cudnn[1 : 1 + 2 * ROUNDS]
    assert timed[::2].count(True) == timed[1::2].count(True) == ROUNDS / 2, "each is first as often"


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers in the largest tensor of floats that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float32:
            self.numbers = max(self.numbers, made.numel())
        return made


def test_the_plain_pass_has_torchs_attention_and_a_rows_memory() -> None:
    seen: list[tuple[bool, list[list[int]]]] = []
    logits = torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0)).bfloat16()

    def model(input_ids: torch.Tensor, use_cache: bool) -> Any:
        seen.append((cudnn_is_on(), input_ids.tolist()))  # type: ignore[no-untyped-call]
        return SimpleNamespace(logits=logits)

    rows = [(3, 4, 5, 6), (7, 8), (9,)]
    wanted = [(0, 3, 2), (1, 1, 10), (0, 1, 0), (2, 0, 5)]
    targets = [Target(row, at, token, (row, at)) for row, at, token in wanted]
    with cudnn_attention(False), Largest() as largest:  # as a cell is left after loading
        found = score_plainly(SimpleNamespace(model=model, device="cpu"), rows, targets)
        assert not cudnn_is_on()  # type: ignore[no-untyped-call]
    assert seen == [(True, [[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]])]
    expected = -logits.double().log_softmax(-1)
    assert found == {
        (row, at): pytest.approx(expected[row, at, token].item(), rel=1e-6)
        for row, at, token in wanted
    }
    assert largest.numbers == 4 * 11
