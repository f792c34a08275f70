"""The engine contract: what the rest of the harness may ask of a loaded model.

An engine is one file or folder of `harness/engines/` with ``load(job: CellJob) -> Engine``, which
raises `InputError` for a user's mistake and `UnavailableError` for what this machine lacks. A
metric names the methods and facts that it needs (`Metric.needs`). An engine leaves out what it
cannot answer; a measurement that needs it is then skipped with that reason. So do not inherit from
`Engine`, which has every method, nor annotate ``load`` with it. `docs/engines.md` shows a second
engine in outline, `examples/extending/engine.py` the smallest one.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from harness.descriptions import BatchTokens
from harness.engines.shared.batches import BatchSize
from harness.engines.shared.meter import MemoryMeter
from harness.suite.model_sources import CellJob

Tokens = tuple[int, ...]
# Called per target with its key, its NLL in nats, and whether its token is the likeliest.
TokenSink = Callable[[Hashable, float, bool], None]


@dataclass(frozen=True)
class Target:
    """Token ``token`` is to be predicted from ``position`` of sequence ``row``."""

    row: int
    position: int
    token: int
    key: Hashable


@dataclass(frozen=True)
class Cost:
    """The work of scoring targets: tokens computed, tokens of the prefix tree, padding, passes.

    ``batch_tokens`` is the size of batch that fitted in the end, smaller than asked for where
    memory ran out. ``unshared`` says why shared prefixes were computed again for each row.
    """

    tokens_forwarded: int
    tokens_unique: int
    tokens_padding: int
    passes: int
    batch_tokens: int
    unshared: str = ""


@dataclass(frozen=True)
class WindowScores:
    """NLL in nats (rows, scored), float64; ``slow_because`` explains a slow way of computing it."""

    nll: torch.Tensor
    slow_because: str | None = None


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
    """Forced greedy tokens (batch, new), and when each was ready in seconds by the host's clock.

    ``device_s`` are the first and the last token by the device's own clock, where it has one.
    """

    tokens: torch.Tensor
    ready: list[float]
    device_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Counts:
    """Parameters and bytes of the loaded weights; see the footprint metric for each one's meaning.

    ``linear_weights`` and ``linear_bytes`` are of the linear layers without the output head.
    ``allocated_bytes`` is the allocator's own figure, read as ``allocated_method`` says; None where
    it cannot be asked.
    """

    parameters: int
    parameters_stored: int
    parameters_naive: int
    weights_bytes: int
    quantised_bytes: int
    constants_bytes: int
    unquantised_bytes: int
    buffers_bytes: int
    total_bytes: int
    linear_weights: int
    linear_bytes: int
    allocated_bytes: int | None = None
    allocated_method: str = "unavailable"


@dataclass(frozen=True)
class Work:
    """The reading and computing of a model, whatever the batch; None where it is unknown.

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


@dataclass(frozen=True)
class PlainHead:
    """An output head that is one linear layer: any process can compute its logits from states.

    ``weight`` (vocabulary, width), ``bias`` (vocabulary,) or None. ``read_states(inputs,
    positions)`` gives the head's input (rows * positions, width), row after row.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    read_states: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Outputs(Protocol):
    """A model's distributions; ``slow_because`` explains a slow way of computing them."""

    vocabulary: int
    dtype: torch.dtype
    slow_because: str | None

    def find_plain_head(self) -> PlainHead | str:
        """The head, else why there is none: then whole logits are stored instead of states."""

    def read_logits(
        self, inputs: torch.Tensor, positions: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Logits (n, vocabulary) of slices of the rows * positions tokens, row after row.

        ``positions`` (m,) are the same in every row: those that the logits come from, each one
        before the token it predicts.
        """


class Generator(Protocol):
    """Forced generation with a clock, over a growing cache or a static one."""

    def run(
        self,
        prompt: torch.Tensor,
        new_tokens: int,
        on_pass: Callable[[int | None], None] | None = None,
    ) -> TimedTokens:
        """Exactly ``new_tokens`` after ``prompt`` (batch, length), whatever they are.

        ``on_pass`` gets the cache's bytes after each forward pass, None where they are unknown.
        """

    def compile(self, prompt: torch.Tensor, new_tokens: int) -> float:
        """Compile for ``prompt``'s size; the seconds it took, first generation included."""

    def release(self) -> None:
        """Free the device memory that compiling took."""


class Engine(Protocol):
    """A loaded model. An engine must have everything down to `close`; the rest is optional.

    ``attested`` states facts read from the loaded model. ``load`` itself compares them with what
    the precision declares (`Precision.check`) and refuses a cell that is something else. ``flags``
    are warnings about all of its numbers, ``seconds`` the durations of "tokenizer" and "load",
    ``device`` is 'cpu' or 'cuda:N'. ``max_context`` is the longest sequence in tokens (None: no
    limit), ``vocabulary`` the number of token ids, ``compute_dtype`` the dtype of matrix products.
    Token ids come as tensors on ``device``.
    """

    job: CellJob
    attested: dict[str, Any]
    flags: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def device(self) -> str: ...
    @property
    def max_context(self) -> int | None: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def compute_dtype(self) -> str: ...
    def require_tokenizer(self) -> Any:
        """A transformers tokenizer; raises `InputError` for a model without one."""

    def close(self) -> None:
        """Free the model."""

    counts: Counts
    # Bytes after loading: "load_peak_bytes" and "weights_bytes", the process's share read by meter.
    memory: Mapping[str, int | None]
    meter: MemoryMeter

    def score_windows(self, rows: torch.Tensor, scored: int) -> WindowScores:
        """NLL of the last ``scored`` tokens of each of ``rows`` (rows, n)."""

    def score_targets(
        self,
        rows: Sequence[Tokens],
        targets: Sequence[Target],
        on_token: TokenSink,
        batch_tokens: BatchTokens,
        on_progress: Callable[[int, int], None],
    ) -> Cost:
        """Predict every target; ``on_progress`` gets the rows finished and all rows.

        At most ``batch_tokens`` go through the model at once, fewer where memory runs out.
        ``rows`` are distinct and non-empty; prefixes that they share are computed once.
        """

    def open_outputs(self, inputs: torch.Tensor, positions: torch.Tensor) -> Outputs:
        """The model's distributions by row; ``inputs`` (1, n) is an example to try it on."""

    # How many tokens the rows of `answer` hold together where the suite leaves it to the device.
    answer_batch: BatchSize

    def answer(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str]
    ) -> list[Answer]:
        """Greedy text behind each row of token ids, all in one batch."""

    def open_generator(self, static_length: int | None, compiled: bool) -> Generator:
        """The decode loop; ``static_length`` is a static cache's length in tokens."""

    def count_work(self) -> Work:
        """The bytes that a decode step reads, and the products that a token costs."""
