"""divergence: how far each token's distribution is from the reference's, over the whole vocabulary.

The reference's cell keeps its distribution at every scored token on disk. A candidate's cell reads
it there, so the two models are never in memory together. Only the same tokens are compared.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.descriptions import Column, MeasureContext, Metric
from harness.errors import InputError
from harness.metrics.divergence_values import DIVERGENCE_VALUES, QUARTERS, PerToken, summarise
from harness.metrics.text_windows import TextWindows, WindowOptions, open_windows, pair_chunks
from harness.records.identity import LIBRARIES
from harness.records.record import Measured, Record, Status, Validity, Value
from harness.records.values import make_values, to_value
from harness.statistics.estimates import clustered_interval

if TYPE_CHECKING:
    import torch

    from harness.engines.base import Engine, Outputs


class Options(WindowOptions):
    """``context`` and ``stride`` in tokens, windows as perplexity's; ``limit``: first tokens only.

    ``disjoint`` fills the quarters of a window evenly; ``sliding`` scores nearly all tokens in the
    second half of theirs, and costs twice the forward passes.
    """

    protocol: Literal["sliding", "disjoint"] = "sliding"
    limit: int | None = Field(None, ge=2)

    def list_qualifiers(self, per: str) -> tuple[str, ...]:
        """The quarters of a window."""
        return QUARTERS


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """On the reference's cell keep its distribution, on another cell compare with it.

    Raises `InputError` as `open_windows`, for other tokens than the reference's, and for a
    distribution that is too large to be kept, damaged or gone.
    """
    job = _Job(engine, options, context, open_windows(engine, options, context, options.limit))
    if context.is_reference or context.reference is None:
        return _keep_distribution(job)
    return _compare_with(context.reference, job)


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """``kl_increase`` between two runs: the mean paired change of divergence, clustered by window.

    Empty for a candidate and its reference, which were compared while the candidate was measured.
    """
    chunks = pair_chunks(candidate, reference, "chunk_kl")
    if chunks is None:
        return {}
    ours, theirs, tokens = chunks
    estimate = clustered_interval([a - b for a, b in zip(ours, theirs, strict=True)], tokens)
    if estimate is None:
        return {}
    return {"kl_increase": to_value(DIVERGENCE_VALUES["kl_increase"], estimate)}


def is_intact(record: Record) -> bool:
    """Whether the distribution that a reference's record names is still stored and whole."""
    from harness.scoring.distribution_folder import find_damage

    name = record.items.get("distribution")
    return isinstance(name, str) and find_damage(name) is None


@dataclass(frozen=True)
class _Job:
    engine: Engine
    options: Options
    context: MeasureContext
    text: TextWindows

    @property
    def name(self) -> str:
        """The cell's name in messages."""
        return f"{self.engine.job.model.name}[{self.engine.job.precision.name}]"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how tokens become windows."""
        names = ("protocol", "context", "stride", "limit")
        return {name: self.text.protocol[name] for name in names}

    @property
    def tokenizer(self) -> str:
        sha256 = self.engine.job.files.tokenizer_sha256 or "unknown"
        return f"{type(self.engine.require_tokenizer()).__name__} {sha256[:12]}"

    def open_outputs(self) -> Outputs:
        """The model's outputs, tried on the first window."""
        first = self.text.windows[0]
        inputs, positions, _ = self.feed(self.text.stack([first]), first.scored)
        return self.engine.open_outputs(inputs, positions)

    def feed(
        self, rows: torch.Tensor, scored: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs (rows, n), the positions to predict from, the tokens there (rows * scored,)."""
        import torch

        rows = rows.to(self.engine.device)
        length = rows.shape[1] - 1
        positions = torch.arange(length - scored, length, device=rows.device)
        return rows[:, :-1], positions, rows[:, -scored:].reshape(-1)

    def make_record(
        self,
        reference: Mapping[str, Any],
        values: dict[str, Value],
        items: Mapping[str, Any],
        nonfinite: int,
        reasons: list[str],
    ) -> Measured:
        """What both sides report; ``reference`` is the precision and weights compared with."""
        tokens = sum(self.text.scored)
        status: Status = "invalid" if nonfinite else "flagged" if reasons else "ok"
        counts = {"tokens": tokens, "nonfinite_tokens": nonfinite}
        return Measured(
            values=values | make_values(DIVERGENCE_VALUES, counts),
            protocol={**self.text.protocol, "reference": dict(reference)},
            items={**items, "chunk_tokens": self.text.scored},
            validity=Validity(status=status, reasons=tuple(reasons)),
        )


def _keep_distribution(job: _Job) -> Measured:
    """The reference's record; its distribution goes to the cache."""
    from harness.machine.cache import format_bytes
    from harness.scoring.compare_logits import count_nonfinite
    from harness.scoring.distributions import DistributionWriter, choose_layout

    outputs = job.open_outputs()
    layout, head = choose_layout(outputs)
    tokens, nonfinite = sum(job.text.scored), 0

    def keep(rows: torch.Tensor, scored: int) -> None:
        nonlocal nonfinite
        inputs, positions, _ = job.feed(rows, scored)
        if head is not None:
            parts = iter([head.read_states(inputs, positions)])
        else:
            parts = (part for _, part in outputs.read_logits(inputs, positions))
        for part in parts:
            nonfinite += count_nonfinite(part, layout.kind)
            writer.append(part)

    name = stored = None
    # Logits come in parts, and a part that is kept cannot be taken back: no batch may be repeated.
    batch_size = 1 if head is None else job.options.batch_size
    what = f"{tokens:,} tokens of {job.options.text.path!r}"
    with DistributionWriter(layout, tokens, head, _list_facts(job), what) as writer:
        batch_size = job.text.run(batch_size, job.context, keep)
        if not nonfinite:
            name, stored = writer.finish()
    reasons = []
    if nonfinite:
        reasons.append(f"{nonfinite} of {tokens} tokens have a NaN or infinite distribution")
    elif layout.reason is not None and stored is not None:
        size = format_bytes(stored)
        reasons.append(f"{layout.reason}: all logits are kept instead of hidden states, {size}")
    cell = job.engine.job
    precision = {"use": cell.precision.use, **cell.precision.options.model_dump(mode="json")}
    return job.make_record(
        {"precision": precision, "weights_sha256": cell.files.weights_sha256},
        make_values(DIVERGENCE_VALUES, {"stored_bytes": stored}),
        {"distribution": name, "batch_size": batch_size},
        nonfinite,
        reasons,
    )


def _compare_with(reference: Record, job: _Job) -> Measured:
    """A candidate's record: compared with the reference's stored distribution, token by token."""
    import numpy as np

    from harness.scoring.compare_logits import compare_logits
    from harness.scoring.distributions import StoredDistribution

    stored = StoredDistribution(str(reference.items.get("distribution")), job.engine.device)
    _check_same_tokens(reference, stored.facts, job)
    outputs = job.open_outputs()
    if stored.layout.vocabulary != outputs.vocabulary:
        raise InputError(
            f"{job.name} has {outputs.vocabulary:,} logits per token, the reference "
            f"{reference.cell.id} {stored.layout.vocabulary:,}: their distributions cannot be "
            "compared"
        )
    count = sum(job.text.scored)
    found = np.empty((3, count))
    done = 0

    def compare_batch(rows: torch.Tensor, scored: int) -> None:
        nonlocal done
        inputs, positions, targets = job.feed(rows, scored)
        for part, logits in outputs.read_logits(inputs, positions):
            place = slice(done + part.start, done + part.stop)
            theirs = stored.logits_of(stored.read_rows(place.start, place.stop))
            found[:, place] = compare_logits(theirs, logits, targets[part]).numpy()
        done += len(targets)

    batch_size = job.text.run(job.options.batch_size, job.context, compare_batch)
    tokens = PerToken(*found)
    reasons = []
    sums: dict[str, list[float]] = {}
    if tokens.nonfinite:
        lost = f"{tokens.nonfinite} of {count} tokens have a NaN or infinite divergence"
        reasons.append(lost)
        values = make_values(DIVERGENCE_VALUES, dict.fromkeys(("kl_mean", "top1_agreement")))
    else:
        values, sums = summarise(tokens, job.text.windows, job.options.context)
    if outputs.slow_because:
        reasons.append(outputs.slow_because)
    return job.make_record(
        reference.protocol.get("reference", {}),
        values,
        {"distribution": stored.name, "batch_size": batch_size, **sums},
        tokens.nonfinite,
        reasons,
    )


def _list_facts(job: _Job) -> dict[str, Any]:
    """Everything that determines the reference's distribution, as JSON-able values."""
    import torch

    cell, text = job.engine.job, job.text.text
    on_cuda = cell.device.startswith("cuda")
    facts = {
        "weights_sha256": cell.files.weights_sha256,
        "precision": [cell.precision.use, cell.precision.options.model_dump(mode="json")],
        "attention": job.engine.attested.get("attention"),
        "ids_sha256": text.ids_sha256,
        "text_sha256": text.text_sha256,
        "tokenizer": job.tokenizer,
        "tokens": len(text.ids),
        "settings": job.settings,
        "batch_size": job.options.batch_size,
        "device": torch.cuda.get_device_name(cell.device) if on_cuda else "cpu",
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    # No hash covers code that comes with a model: its distributions are never taken for the same.
    return facts | ({"once": uuid.uuid4().hex} if cell.model.trust_remote_code else {})


def _check_same_tokens(reference: Record, theirs: Mapping[str, Any], job: _Job) -> None:
    """Refuse to compare other tokens, or the same ones in other windows."""
    text, path = job.text.text, f"text {job.options.text.path!r}"
    if theirs["text_sha256"] != text.text_sha256:
        raise InputError(f"{path} has changed since {reference.cell.id} was measured; run again")
    if theirs["ids_sha256"] != text.ids_sha256:
        raise InputError(
            f"{path} has {len(text.ids):,} tokens for {job.name} (tokenizer {job.tokenizer}), and "
            f"{theirs['tokens']:,} other ones for the reference {reference.cell.id} (tokenizer "
            f"{theirs['tokenizer']}): only the same tokens can be compared; give the model the "
            "reference's `tokenizer:`"
        )
    settings = job.settings
    differing = [key for key, value in settings.items() if theirs["settings"].get(key) != value]
    if differing:
        raise InputError(
            f"{reference.cell.id} was measured with another {', '.join(differing)} than {job.name};"
            " run the reference again"
        )


METRIC = Metric(
    help=__doc__ or "",
    options=Options,
    values=DIVERGENCE_VALUES,
    measure=measure,
    headline=(Column("KL", "kl_mean", ".4f"), Column("top-1", "top1_agreement", ".3f")),
    needs=frozenset({"open_outputs"}),
    compare=compare,
    is_intact=is_intact,
    needs_reference=True,
)
