"""A model loaded by transformers, behind the contract of `harness.engines.base`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.engines.base import (
    Answer,
    Cost,
    Counts,
    Target,
    Tokens,
    TokenSink,
    WindowScores,
    Work,
)
from harness.engines.shared.meter import MemoryMeter
from harness.engines.transformers.generation import TransformersGenerator
from harness.engines.transformers.greedy import generate_batch
from harness.engines.transformers.outputs import OutputReader
from harness.engines.transformers.prefix_scoring import predict_tokens
from harness.engines.transformers.window_scoring import TokenScorer, describe_fallback
from harness.engines.transformers.work import count_work
from harness.errors import InputError
from harness.suite.cell_job import CellJob

_COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class TransformersEngine:
    """See `harness.engines.base.Engine`."""

    job: CellJob
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    attested: dict[str, Any]
    counts: Counts
    memory: dict[str, int | None]
    meter: MemoryMeter
    seconds: dict[str, float]
    flags: tuple[str, ...] = ()
    _scorer: TokenScorer | None = field(default=None, repr=False)

    @property
    def device(self) -> str:
        return self.job.device

    @property
    def max_context(self) -> int | None:
        """The longest sequence the model was made for, in tokens; None where it has no limit."""
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            length = getattr(self.model.config, name, None)
            if isinstance(length, int) and length > 0:
                return length
        return None

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        rows: int = self.model.get_input_embeddings().num_embeddings
        return rows

    @property
    def compute_dtype(self) -> str:
        """The dtype in which products are made; for int8 that of what surrounds them."""
        attested = self.attested.get("compute_dtype")
        return attested if attested in _COMPUTE_DTYPES else str(self.model.dtype).split(".")[-1]

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; raises `InputError` for a model without one."""
        if self.tokenizer is None:
            raise InputError(f"model {self.job.model.name!r} has no tokenizer: set `tokenizer:`")
        return self.tokenizer

    def score_windows(self, rows: torch.Tensor, scored: int) -> WindowScores:
        """NLL of the last ``scored`` tokens of each of ``rows`` (rows, n)."""
        if self._scorer is None:
            self._scorer = TokenScorer(self.model)
        nll = self._scorer.score(rows.to(self.device), scored)
        reason = self._scorer.fallback
        return WindowScores(nll, reason and describe_fallback(self.model, reason))

    def score_targets(
        self,
        rows: Sequence[Tokens],
        targets: Sequence[Target],
        on_token: TokenSink,
        batch_tokens: int,
        on_progress: Callable[[int, int], None],
    ) -> Cost:
        """Predict every target's token, shared prefixes computed once."""
        return predict_tokens(
            self.model, self.device, rows, targets, on_token, batch_tokens, on_progress
        )

    def open_outputs(self, inputs: torch.Tensor, positions: torch.Tensor) -> OutputReader:
        """The model's distributions by row, tried on ``inputs`` (1, n)."""
        return OutputReader(self.model, inputs, positions)

    def answer(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str]
    ) -> list[Answer]:
        """Greedy text behind each row of token ids, left-padded in one batch."""
        tokenizer = self.require_tokenizer()
        return generate_batch(self.model, tokenizer, rows, max_new_tokens, stop)

    def open_generator(
        self, static_length: int | None = None, compiled: bool = False
    ) -> TransformersGenerator:
        """The decode loop over the model's own cache."""
        return TransformersGenerator(self.model, static_length, compiled)

    def count_work(self) -> Work:
        """What a decode step reads and a token costs."""
        return count_work(self.model, self.counts)

    def close(self) -> None:
        """Free the model."""
        self._scorer = None
        del self.model
