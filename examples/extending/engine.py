"""The uniform engine: every token is equally likely, whatever came before; it reads no weights.

The floor under every model, and the smallest engine: each number follows from the size of the
vocabulary. It cannot generate, so speeds and written answers are skipped with that reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from harness.descriptions import BatchTokens
from harness.engines.base import Cost, Target, Tokens, TokenSink, WindowScores
from harness.errors import InputError
from harness.suite.model_sources import CellJob


@dataclass
class UniformOutputs:
    """Logits of zero."""

    vocabulary: int
    device: str
    dtype: torch.dtype = torch.float32
    slow_because: str | None = None

    def find_plain_head(self) -> str:
        return "the uniform engine has no output head"

    def read_logits(
        self, inputs: torch.Tensor, positions: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        for row in range(len(inputs)):
            part = slice(row * len(positions), (row + 1) * len(positions))
            yield part, torch.zeros(len(positions), self.vocabulary, device=self.device)


@dataclass
class UniformEngine:
    """Answers as `harness.engines.base.Engine` describes; does not inherit from it."""

    job: CellJob
    tokenizer: Any
    vocabulary: int
    seconds: dict[str, float]
    attested: dict[str, Any] = field(default_factory=lambda: {"distribution": "uniform"})
    flags: tuple[str, ...] = ("no weights were read: every token is equally likely",)
    max_context: int | None = None
    compute_dtype: str = "float32"

    @property
    def device(self) -> str:
        return self.job.device

    def require_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise InputError(f"model {self.job.model.name!r} has no tokenizer: set `tokenizer:`")
        return self.tokenizer

    def close(self) -> None:
        pass

    def score_windows(self, rows: torch.Tensor, scored: int) -> WindowScores:
        nll = math.log(self.vocabulary)
        return WindowScores(torch.full((len(rows), scored), nll, dtype=torch.float64))

    def score_targets(
        self,
        rows: Sequence[Tokens],
        targets: Sequence[Target],
        on_token: TokenSink,
        batch_tokens: BatchTokens,
        on_progress: Callable[[int, int], None],
    ) -> Cost:
        for target in targets:  # of equals the first is chosen, as argmax does: token 0
            on_token(target.key, math.log(self.vocabulary), target.token == 0)
        on_progress(len(rows), len(rows))
        return Cost(0, 0, 0, 0, 0)

    def open_outputs(self, inputs: torch.Tensor, positions: torch.Tensor) -> UniformOutputs:
        return UniformOutputs(self.vocabulary, self.device)


def load(job: CellJob) -> UniformEngine:
    """Read the config and the tokenizer; raises `InputError` for random weights, without files."""
    if job.files.folder is None:
        raise InputError(f"{job.model.name} has no files: the uniform engine reads its config")
    start = time.perf_counter()
    place = job.files.tokenizer_folder
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True) if place else None
    read = time.perf_counter()
    config = AutoConfig.from_pretrained(job.files.folder, local_files_only=True)
    seconds = {"tokenizer": read - start, "load": time.perf_counter() - read}
    return UniformEngine(job, tokenizer, config.vocab_size, seconds)
