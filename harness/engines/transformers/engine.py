"""A model loaded by transformers, behind the contract of `harness.engines.base`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.descriptions import BatchTokens
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
from harness.engines.shared.batches import BatchSize
from harness.engines.shared.meter import MemoryMeter
from harness.engines.transformers.generation import TransformersGenerator
from harness.engines.transformers.greedy import generate_batch
from harness.engines.transformers.kv_cache import find_max_context
from harness.engines.transformers.outputs import OutputReader
from harness.engines.transformers.prefix_scoring import predict_tokens
from harness.engines.transformers.token_scores import score_windows, scored_positions
from harness.engines.transformers.work import count_work
from harness.errors import InputError
from harness.suite.model_sources import CellJob

_COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class TransformersEngine:
    """Answers as `harness.engines.base.Engine` describes each method."""

    job: CellJob
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    attested: dict[str, Any]
    counts: Counts
    memory: dict[str, int | None]
    meter: MemoryMeter
    seconds: dict[str, float]
    flags: tuple[str, ...] = ()
    _outputs: OutputReader | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Sizes of batch that follow the device; on a CPU, where size matters little, fixed."""
        on_cpu = self.device == "cpu"
        self.answer_batch = BatchSize(16384, grows=not on_cpu)
        self._prompt_batch = BatchSize(512 if on_cpu else 2048, grows=not on_cpu)

    @property
    def device(self) -> str:
        return self.job.device

    @property
    def max_context(self) -> int | None:
        """The longest sequence the model was made for, in tokens; None where it has no limit."""
        return find_max_context(self.model.config)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        rows: int = self.model.get_input_embeddings().num_embeddings
        return rows

    @property
    def compute_dtype(self) -> str:
        """The dtype of matrix products; around int8 products, that of their inputs."""
        attested = self.attested.get("compute_dtype")
        return attested if attested in _COMPUTE_DTYPES else str(self.model.dtype).split(".")[-1]

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise InputError(f"model {self.job.model.name!r} has no tokenizer: set `tokenizer:`")
        return self.tokenizer

    def score_windows(self, rows: torch.Tensor, scored: int) -> WindowScores:
        rows = rows.to(self.device)
        if self._outputs is None:
            positions = scored_positions(rows, scored)
            self._outputs = OutputReader(self.model, rows[:1, :-1], positions)
        nll = score_windows(self._outputs, rows, scored)
        return WindowScores(nll, self._outputs.slow_because)

    def score_targets(
        self,
        rows: Sequence[Tokens],
        targets: Sequence[Target],
        on_token: TokenSink,
        batch_tokens: BatchTokens,
        on_progress: Callable[[int, int], None],
    ) -> Cost:
        batch = self._prompt_batch.at_most(batch_tokens)
        return predict_tokens(self.model, self.device, rows, targets, on_token, batch, on_progress)

    def open_outputs(self, inputs: torch.Tensor, positions: torch.Tensor) -> OutputReader:
        return OutputReader(self.model, inputs, positions)

    def answer(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str]
    ) -> list[Answer]:
        tokenizer = self.require_tokenizer()
        return generate_batch(self.model, tokenizer, rows, max_new_tokens, stop)

    def open_generator(
        self, static_length: int | None = None, compiled: bool = False
    ) -> TransformersGenerator:
        return TransformersGenerator(self.model, static_length, compiled)

    def count_work(self) -> Work:
        return count_work(self.model, self.counts)

    def close(self) -> None:
        self._outputs = None
        del self.model
