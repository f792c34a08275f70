"""The engine contract: what a metric may ask of a loaded model.

An engine is one file or folder of `harness/engines/` with ``load(job: CellJob) -> Engine``. A
metric names the methods it needs (`Metric.needs`). An engine that cannot do something leaves the
method out; a measurement that needs it is then skipped with that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from harness.engines.shared.meter import MemoryMeter
    from harness.suite.cell_job import CellJob

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """Token ``token`` is to be predicted from ``position`` of sequence ``row``."""

    row: int
    position: int
    token: int
    key: Hashable


@dataclass(frozen=True)
class Cost:
    """What scoring targets took: tokens computed, tokens of the prefix tree, padding, passes.

    ``batch_tokens`` is what a batch held at the end, less than was asked for where memory ran out.
    ``unshared`` says why shared prefixes were computed again for each row, empty where they were
    not.
    """

    tokens_forwarded: int
    tokens_unique: int
    tokens_padding: int
    passes: int
    batch_tokens: int
    unshared: str = ""


@dataclass(frozen=True)
class WindowScores:
    """NLL in nats (rows, scored), float64; why it was computed slowly, None where it was not."""

    nll: torch.Tensor
    slow_because: str | None


@dataclass(frozen=True)
class Answer:
    """One greedy answer: ``tokens`` without the end-of-text token, ``text`` up to a stop string.

    ``stopped`` says what ended it; ``length`` means that it was cut off.
    """

    tokens: Tokens
    text: str
    stopped: Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class TimedTokens:
    """Forced greedy tokens (batch, new) and the seconds, by the host's clock, each was ready at.

    ``device_s`` is the same of the first and the last token by the device's clock, None without.
    """

    tokens: torch.Tensor
    ready: list[float]
    device_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Work:
    """What a model reads and computes, whatever the batch; None where that is unknown.

    ``weight_bytes`` are read per decode step, ``kv_bytes`` are keys and values per token and
    sequence. ``layer_weights`` and ``head_weights`` are multiplied once per token;
    ``attention_width`` is layers·heads·head width. ``head_everywhere``: the model computes the
    logits of a whole prompt, not only of its last token. ``logit_bytes`` is the size of one token's
    logits, ``attention_curve`` the bytes per token² of an attention that holds all its scores.
    """

    weight_bytes: int | None
    kv_bytes: int | None
    layer_weights: int | None
    head_weights: int
    attention_width: int | None
    head_everywhere: bool
    logit_bytes: int
    attention_curve: float


class Outputs(Protocol):
    """A model's distributions; ``slow_because`` says why its hidden states are not enough."""

    vocabulary: int
    dtype: torch.dtype
    slow_because: str | None

    def find_plain_head(self) -> tuple[torch.Tensor, torch.Tensor | None] | str:
        """Weight and bias that turn states into these logits in any process; else why not."""

    def read_states(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What goes into the output head: (rows * positions, width), row after row."""

    def read_logits(
        self, inputs: torch.Tensor, positions: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Logits (n, vocabulary), slice by slice of the rows * positions tokens."""


class Generator(Protocol):
    """Forced generation with a clock, over a growing cache or a static one."""

    def run(self, prompt: torch.Tensor, new_tokens: int) -> TimedTokens:
        """Exactly ``new_tokens`` after ``prompt`` (batch, length), whatever they are."""

    def compile(self, prompt: torch.Tensor, new_tokens: int) -> float:
        """Compile for ``prompt``'s shape; the seconds it took, first generation included."""

    def release(self) -> None:
        """Drop what compiling left on the device."""


class Engine(Protocol):
    """A loaded model. Facts first, then what can be asked of it.

    ``attested`` is what was really loaded, ``flags`` what a reader of any of its numbers must know,
    ``seconds`` how long each step of loading took, ``counts`` the parameters and the bytes by kind,
    ``memory`` the bytes of the loading phase, ``max_context`` the longest sequence in tokens (None:
    no limit), ``vocabulary`` the number of token ids. ``tokenizer`` is a transformers tokenizer.
    """

    job: CellJob
    attested: dict[str, Any]
    flags: tuple[str, ...]
    seconds: dict[str, float]
    counts: dict[str, Any]
    memory: dict[str, int | None]
    meter: MemoryMeter

    @property
    def device(self) -> str: ...
    @property
    def max_context(self) -> int | None: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def compute_dtype(self) -> str: ...
    def require_tokenizer(self) -> Any:
        """The tokenizer; raises `InputError` for a model without one."""

    def score_windows(self, rows: torch.Tensor, scored: int) -> WindowScores:
        """NLL of the last ``scored`` tokens of each of ``rows`` (rows, n)."""

    def score_targets(
        self,
        rows: Sequence[Tokens],
        targets: Sequence[Target],
        on_token: Callable[[Hashable, float, bool], None],
        batch_tokens: int,
        on_progress: Callable[[int, int], None],
    ) -> Cost:
        """Predict every target; ``on_token`` gets its key, NLL in nats, whether it is likeliest.

        ``rows`` are distinct and non-empty; what they share at the start is computed once.
        """

    def open_outputs(self, inputs: torch.Tensor, positions: torch.Tensor) -> Outputs:
        """The model's distributions by row; ``inputs`` (1, n) is what they are tried on."""

    def answer(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str]
    ) -> list[Answer]:
        """Greedy text behind each row of token ids, all in one batch."""

    def open_generator(self, static_length: int | None, compiled: bool) -> Generator:
        """The decode loop; ``static_length`` is a static cache's length in tokens."""

    def watch_cache(self, run: Callable[[], Any], on_pass: Callable[[int | None], None]) -> None:
        """``run()``; ``on_pass`` gets the cache's bytes after each forward pass (None: unknown)."""

    def count_work(self) -> Work:
        """What a decode step reads and a token costs."""

    def close(self) -> None:
        """Let go of the model."""
