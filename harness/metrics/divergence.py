"""divergence: how far each token's distribution is from the reference's, over the whole vocabulary.

The reference's cell keeps what it says at every scored token (`_distributions`); a candidate reads
that beside its own, so the two models are never in memory together. Compares the same tokens only.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.descriptions import MeasureContext, Metric
from harness.errors import InputError
from harness.metrics.divergence_values import (
    DIVERGENCE_VALUES,
    HEADLINE,
    QUARTERS,
    PerToken,
    summarise,
)
from harness.metrics.windows import Window, WindowOptions, plan_windows, step_of
from harness.records.identity import LIBRARIES
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import make_values, to_value
from harness.statistics.estimates import clustered_interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from harness.engines.base import Engine, Outputs
    from harness.scoring.distributions import Layout
    from harness.scoring.tokenised import TokenisedText

__all__ = ["HEADLINE", "VALUES", "Options", "compare", "is_intact", "measure"]
VALUES = DIVERGENCE_VALUES


class Options(WindowOptions):
    """``context`` and ``stride`` in tokens, windows as perplexity's; ``limit``: first tokens only.

    ``disjoint`` fills the quarters of a window evenly; ``sliding`` scores nearly all tokens in the
    second half of theirs, and costs twice the forward passes.
    """

    protocol: Literal["sliding", "disjoint"] = "sliding"
    limit: int | None = Field(None, ge=2)

    @property
    def qualifiers(self) -> tuple[str, ...]:
        """The quarters of a window."""
        return QUARTERS


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """On the reference's cell keep its distribution, on another's compare with it.

    Raises `InputError` for a context beyond the model's, a text too short, other tokens than the
    reference's, and a distribution that is too large to be kept, damaged or gone.
    """
    from harness.scoring.tokenised import tokenise_text

    limit = engine.max_context
    if limit is not None and options.context > limit:
        raise InputError(
            f"context {options.context} is longer than the {limit} tokens that "
            f"{engine.job.model.name} was made for"
        )
    text = tokenise_text(engine, options.text, context)
    ids = text.ids[: options.limit]
    windows = plan_windows(len(ids), options.protocol, options.context, options.stride)
    if not windows:
        found = f"text {options.text.path!r} has {len(ids)} token{'s' * (len(ids) != 1)}"
        raise InputError(f"{found}; nothing can be scored")
    job = _Job(engine, options, context, text, ids, windows)
    if context.is_reference or context.reference is None:
        return _keep_distribution(job)
    return _compare_with(context.reference, job)


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Nothing beside the reference, which a candidate is measured against; between runs the change.

    ``kl_increase`` is the mean paired difference of two runs' divergence, clustered by window.
    """
    ours, theirs = (side.items.get("chunk_kl") for side in (candidate, reference))
    counts = candidate.items.get("chunk_tokens")
    if not counts or not ours or not theirs or counts != reference.items.get("chunk_tokens"):
        return {}
    estimate = clustered_interval([a - b for a, b in zip(ours, theirs, strict=True)], counts)
    return {} if estimate is None else {"kl_increase": to_value(VALUES["kl_increase"], estimate)}


def is_intact(record: Record) -> bool:
    """Whether the distribution that a reference's record names is there and whole."""
    from harness.scoring.distributions import find_damage

    name = record.items.get("distribution")
    return isinstance(name, str) and find_damage(name) is None


@dataclass(frozen=True)
class _Job:
    """One measurement: the cell, the text's tokens and the windows over them."""

    engine: Engine
    options: Options
    context: MeasureContext
    text: TokenisedText
    ids: npt.NDArray[np.int32]
    windows: list[Window]

    @property
    def tokens(self) -> int:
        return sum(window.scored for window in self.windows)

    @property
    def protocol(self) -> dict[str, Any]:
        """What the numbers' meaning depends on; the same for reference and candidate."""
        options = self.options
        return {
            **options.model_dump(exclude={"batch_size"}, mode="json"),
            "stride": step_of(options.protocol, options.context, options.stride),
            "text_sha256": self.text.text_sha256,
            "text_tokens": len(self.text.ids),
            "tokenizer_sha256": self.engine.job.files.tokenizer_sha256,
            "reference": self._name_reference(),
        }

    def _name_reference(self) -> dict[str, Any]:
        """Whose distribution is compared with: numbers beside another are others."""
        reference = self.context.reference
        if reference is not None and not self.context.is_reference:
            return dict(reference.protocol.get("reference", {}))
        job = self.engine.job
        precision = job.precision
        return {
            "precision": {"use": precision.use, **precision.options.model_dump(mode="json")},
            "weights_sha256": job.files.weights_sha256,
        }

    def open_reader(self) -> Outputs:
        """The model's outputs, tried on the first window."""
        inputs, positions, _ = self.feed(self.windows[:1])
        return self.engine.open_outputs(inputs, positions)

    def feed(self, batch: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs (rows, n), the positions whose next token counts, those tokens (rows * scored)."""
        import numpy as np
        import torch

        rows = torch.from_numpy(np.stack([window.sequence(self.ids) for window in batch]))
        rows = rows.to(self.engine.device)
        length, scored = rows.shape[1] - 1, batch[0].scored
        positions = torch.arange(length - scored, length, device=rows.device)
        return rows[:, :-1], positions, rows[:, -scored:].reshape(-1)

    def run(self, size: int, run: Callable[[Sequence[Window], int], None]) -> int:
        """``run(batch, first)`` on windows of one shape; ``first``: scored tokens before theirs.

        Returns the batch size that held.
        """
        from harness.engines.shared.batches import run_in_batches

        done = first = 0

        def run_batch(batch: Sequence[Window]) -> None:
            nonlocal done, first
            run(batch, first)
            done += len(batch)
            first += len(batch) * batch[0].scored
            self.context.progress(done, len(self.windows), "windows")

        for _, same in groupby(self.windows, key=lambda window: window.shape):
            size = run_in_batches(list(same), size, run_batch)
        return size


def _keep_distribution(job: _Job) -> Measured:
    """The reference's record; what it says at each token goes to the cache."""
    from harness.machine.cache import format_bytes
    from harness.scoring.compare_logits import count_nonfinite
    from harness.scoring.distributions import DistributionWriter

    reader = job.open_reader()
    layout, head = _lay_out(reader)
    nonfinite = 0

    def keep(batch: Sequence[Window], _: int) -> None:
        nonlocal nonfinite
        inputs, positions, _targets = job.feed(batch)
        parts = (
            (part for _, part in reader.read_logits(inputs, positions))
            if head is None
            else [reader.read_states(inputs, positions)]
        )
        for part in parts:
            nonfinite += count_nonfinite(part, layout.kind)
            writer.append(part)

    name = stored = None
    # Logits one row at a time: what is kept cannot be taken back where memory runs out behind it.
    batch_size = 1 if head is None else job.options.batch_size
    what = f"{job.tokens:,} tokens of {job.options.text.path!r}"
    with DistributionWriter(layout, job.tokens, _list_facts(job), what) as writer:
        if head is not None:
            writer.keep_head(*head)
        batch_size = job.run(batch_size, keep)
        if not nonfinite:
            name, stored = writer.finish()
    reasons = []
    if nonfinite:
        reasons.append(f"{nonfinite} of {job.tokens} tokens have a NaN or infinite distribution")
    elif layout.reason is not None and stored is not None:
        size = format_bytes(stored)
        reasons.append(f"{layout.reason}: all logits are kept instead of hidden states, {size}")
    return Measured(
        values=make_values(
            VALUES,
            {"tokens": job.tokens, "nonfinite_tokens": nonfinite, "stored_bytes": stored},
        ),
        protocol=job.protocol,
        items={
            "distribution": name,
            "chunk_tokens": [window.scored for window in job.windows],
            "batch_size": batch_size,
        },
        validity=_judge_validity(nonfinite, reasons),
    )


def _compare_with(reference: Record, job: _Job) -> Measured:
    """A candidate's record: beside the reference's stored distribution, token by token."""
    import numpy as np

    from harness.scoring.compare_logits import compare_logits
    from harness.scoring.distributions import StoredDistribution

    stored = StoredDistribution(str(reference.items.get("distribution")), job.engine.device)
    _check_same(reference, stored.manifest.facts, job)
    reader = job.open_reader()
    _check_vocabulary(reference, stored.layout.vocabulary, reader.vocabulary, job)
    tokens = PerToken(*(np.empty(job.tokens) for _ in range(3)))

    def compare_batch(batch: Sequence[Window], first: int) -> None:
        inputs, positions, targets = job.feed(batch)
        for part, logits in reader.read_logits(inputs, positions):
            place = slice(first + part.start, first + part.stop)
            theirs = stored.logits_of(stored.read_rows(place.start, place.stop))
            apart = compare_logits(theirs, logits, targets[part])
            tokens.kl[place] = apart.kl.numpy()
            tokens.agrees[place] = apart.agrees.numpy()
            tokens.delta_p[place] = apart.delta_p.numpy()

    batch_size = job.run(job.options.batch_size, compare_batch)
    nonfinite = tokens.nonfinite
    values = make_values(VALUES, {"tokens": job.tokens, "nonfinite_tokens": nonfinite})
    items: dict[str, Any] = {
        "distribution": stored.name,
        "chunk_tokens": [window.scored for window in job.windows],
        "batch_size": batch_size,
    }
    reasons = []
    if nonfinite:
        reasons.append(f"{nonfinite} of {job.tokens} tokens have a NaN or infinite divergence")
        values |= make_values(VALUES, dict.fromkeys(("kl_mean", "top1_agreement")))
    else:
        compared, sums = summarise(tokens, job.windows, job.options.context)
        values, items = compared | values, items | sums
    if reader.slow_because:
        reasons.append(reader.slow_because)
    return Measured(
        values=values,
        protocol=job.protocol,
        items=items,
        validity=_judge_validity(nonfinite, reasons),
    )


def _lay_out(
    reader: Outputs,
) -> tuple[Layout, tuple[torch.Tensor, torch.Tensor | None] | None]:
    """How this model's distribution is kept, and the head that goes with it where states are."""
    import torch

    from harness.scoring.distributions import Layout

    head = reader.find_plain_head()
    plain = not isinstance(head, str)
    weight, bias = head if not isinstance(head, str) else (None, None)
    dtype = reader.dtype if weight is None else weight.dtype
    return Layout(
        kind="states" if plain else "logits",
        width=reader.vocabulary if weight is None else weight.shape[1],
        vocabulary=reader.vocabulary,
        dtype=str(dtype).removeprefix("torch."),
        item_bytes=dtype.itemsize,
        head_bytes=sum(tensor.nbytes for tensor in (weight, bias) if tensor is not None),
        matmul=torch.get_float32_matmul_precision(),
        reason=None if plain else str(head),
    ), (None if weight is None else (weight, bias))


def _list_facts(job: _Job) -> dict[str, Any]:
    """Everything that determines what the reference says, as JSON-able values."""
    import torch

    cell = job.engine.job
    on_cuda = cell.device.startswith("cuda")
    facts = {
        "weights_sha256": cell.files.weights_sha256,
        "precision": [cell.precision.use, cell.precision.options.model_dump(mode="json")],
        "attention": job.engine.attested["attention"],
        "ids_sha256": job.text.ids_sha256,
        "text_sha256": job.text.text_sha256,
        "tokenizer": _describe_tokenizer(job.engine),
        "tokens": len(job.text.ids),
        "settings": _list_settings(job),
        "batch_size": job.options.batch_size,
        "device": torch.cuda.get_device_name(cell.device) if on_cuda else "cpu",
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    # Code that comes with a model is in no hash: what it computes is never taken for the same.
    return facts | ({"once": uuid.uuid4().hex} if cell.model.trust_remote_code else {})


def _list_settings(job: _Job) -> dict[str, Any]:
    """What makes windows of tokens."""
    names = ("protocol", "context", "stride", "limit")
    return {name: value for name, value in job.protocol.items() if name in names}


def _describe_tokenizer(engine: Engine) -> str:
    sha256 = engine.job.files.tokenizer_sha256 or "unknown"
    return f"{type(engine.require_tokenizer()).__name__} {sha256[:12]}"


def _check_same(reference: Record, theirs: dict[str, Any], job: _Job) -> None:
    """Refuse to compare other tokens, or the same ones in other windows."""
    ours = f"{job.engine.job.model.name}[{job.engine.job.precision.name}]"
    text = f"text {job.options.text.path!r}"
    if theirs["text_sha256"] != job.text.text_sha256:
        raise InputError(f"{text} has changed since {reference.cell.id} was measured; run again")
    if theirs["ids_sha256"] != job.text.ids_sha256:
        raise InputError(
            f"{text} is {len(job.ids):,} tokens for {ours} (tokenizer "
            f"{_describe_tokenizer(job.engine)}), and other {theirs['tokens']:,} for the reference "
            f"{reference.cell.id} (tokenizer {theirs['tokenizer']}): the same tokens are compared "
            "only; give the model one `tokenizer:`"
        )
    settings = _list_settings(job)
    differing = [key for key, value in settings.items() if theirs["settings"].get(key) != value]
    if differing:
        raise InputError(
            f"{reference.cell.id} was measured with another {', '.join(differing)} than {ours}; "
            "run the reference again"
        )


def _check_vocabulary(reference: Record, theirs: int, ours: int, job: _Job) -> None:
    if theirs != ours:
        cell = job.engine.job
        raise InputError(
            f"{cell.model.name}[{cell.precision.name}] has {ours:,} logits per token, the "
            f"reference {reference.cell.id} {theirs:,}: their distributions cannot be compared"
        )


def _judge_validity(nonfinite: int, reasons: list[str]) -> Validity:
    status: Any = "invalid" if nonfinite else "flagged" if reasons else "ok"
    return Validity(status=status, reasons=tuple(reasons))


METRIC = Metric(
    help=__doc__ or "",
    options=Options,
    values=VALUES,
    measure=measure,
    headline=HEADLINE,
    needs=frozenset({"open_outputs"}),
    compare=compare,
    is_intact=is_intact,
    needs_reference=True,
)
