"""divergence: how far each token's distribution is from the reference's, over the whole vocabulary.

The reference's cell keeps its distribution at every scored token on disk. A candidate's cell reads
it there, so the two models are never in memory together. Only the same tokens are compared.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.descriptions import Chart, Column, MeasureContext, Metric
from harness.errors import InputError
from harness.machine.environment import describe_libraries
from harness.metrics.divergence_values import DIVERGENCE_VALUES, QUARTERS, summarise
from harness.metrics.text_windows import (
    TextWindows,
    WindowOptions,
    check_text,
    compare_chunks,
    open_windows,
)
from harness.records.identity import list_libraries
from harness.records.record import Measured, Record, Value
from harness.records.values import make_values
from harness.suite.cells import cell_id

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
    text = open_windows(engine, options, context, options.limit)
    if context.is_reference or context.reference is None:
        return _keep_distribution(text, options)
    return _compare_with(context.reference, text, options)


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """``kl_increase`` and ``top1_decrease`` between two runs: mean changes, clustered by window.

    Empty for a candidate and its reference, which were compared while the candidate was measured.
    """
    specs = DIVERGENCE_VALUES
    return compare_chunks(candidate, reference, "chunk_kl", specs, "kl_increase") | compare_chunks(
        reference, candidate, "chunk_agrees", specs, "top1_decrease"
    )


def is_intact(record: Record) -> bool:
    """Whether the distribution that a reference's record names is still stored and whole."""
    from harness.scoring.distribution_folder import Manifest, read_manifest

    name = record.items.get("distribution")
    return isinstance(name, str) and isinstance(read_manifest(name), Manifest)


def _keep_distribution(text: TextWindows, options: Options) -> Measured:
    """The reference's record; its distribution goes to the cache."""
    from harness.machine.cache import format_bytes
    from harness.scoring.distributions import DistributionWriter, choose_layout, count_nonfinite

    outputs = _open_outputs(text)
    layout, head = choose_layout(outputs)
    tokens, nonfinite = sum(text.scored), 0

    def keep(rows: torch.Tensor, scored: int) -> None:
        nonlocal nonfinite
        inputs, positions, _ = _feed(rows, scored)
        if head is not None:
            parts = iter([head.read_states(inputs, positions)])
        else:
            parts = (part for _, part in outputs.read_logits(inputs, positions))
        for part in parts:
            nonfinite += count_nonfinite(part, layout.kind)
            writer.append(part)

    name = stored = None
    # Logits come in parts, and a part that is kept cannot be taken back: no batch may be repeated.
    batch_size = 1 if head is None else options.batch_size
    what = f"{tokens:,} tokens of {options.text.path!r}"
    with DistributionWriter(layout, tokens, head, _list_facts(text, options), what) as writer:
        batch_size = text.run(batch_size, keep)
        if not nonfinite:
            name, stored = writer.finish()
    reasons = []
    if layout.reason is not None and stored is not None:
        size = format_bytes(stored)
        reasons.append(f"{layout.reason}: all logits are kept instead of hidden states, {size}")
    values = make_values(DIVERGENCE_VALUES, {"stored_bytes": stored})
    items = {"distribution": name, "batch_size": batch_size}
    cell = text.engine.job
    reference = {"precision": cell.precision.declared, "weights_sha256": cell.files.weights_sha256}
    return text.make_measured(
        values, items, reasons, nonfinite, "distribution", reference=reference
    )


def _compare_with(reference: Record, text: TextWindows, options: Options) -> Measured:
    """A candidate's record: compared with the reference's stored distribution, token by token."""
    import numpy as np

    from harness.scoring.compare_distributions import compare_logits
    from harness.scoring.distributions import StoredDistribution

    stored = StoredDistribution(str(reference.items.get("distribution")), text.engine.device)
    name, other = cell_id(text.engine.job.model, text.engine.job.precision), reference.cell.id
    ours = _list_facts(text, options)
    _check_same_tokens(ours, stored.facts, options.text.path, name, other)
    outputs = _open_outputs(text)
    if stored.layout.vocabulary != outputs.vocabulary:
        raise InputError(
            f"{name} has {outputs.vocabulary:,} logits per token, the reference {other} "
            f"{stored.layout.vocabulary:,}: their distributions cannot be compared"
        )
    found = np.empty((3, sum(text.scored)))
    done = 0

    def compare_batch(rows: torch.Tensor, scored: int) -> None:
        nonlocal done
        inputs, positions, targets = _feed(rows, scored)
        for part, logits in outputs.read_logits(inputs, positions):
            place = slice(done + part.start, done + part.stop)
            theirs = stored.logits_of(stored.read_rows(place.start, place.stop))
            found[:, place] = compare_logits(theirs, logits, targets[part]).numpy()
        done += len(targets)

    batch_size = text.run(options.batch_size, compare_batch)
    nonfinite = int((~np.isfinite(found)).any(axis=0).sum())
    reasons = [outputs.slow_because] if outputs.slow_because else []
    sums: dict[str, list[float]] = {}
    if nonfinite:
        values = make_values(DIVERGENCE_VALUES, dict.fromkeys(("kl_mean", "top1_agreement")))
    else:
        values, sums = summarise(found, text.windows, options.context)
    items = {"distribution": stored.name, "batch_size": batch_size, **sums}
    compared_with = reference.protocol.get("reference", {})
    return text.make_measured(
        values, items, reasons, nonfinite, "divergence", reference=compared_with
    )


def _open_outputs(text: TextWindows) -> Outputs:
    """The model's outputs, tried on the first window."""
    first = text.windows[0]
    inputs, positions, _ = _feed(text.stack([first]), first.scored)
    return text.engine.open_outputs(inputs, positions)


def _feed(rows: torch.Tensor, scored: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs (rows, n), the positions to predict from, the tokens there (rows * scored,)."""
    length = rows.shape[1] - 1
    positions = rows.new_tensor(range(length - scored, length))
    return rows[:, :-1], positions, rows[:, -scored:].reshape(-1)


def _list_facts(text: TextWindows, options: Options) -> dict[str, Any]:
    """Everything that determines a model's distribution, as JSON-able values."""
    import torch

    engine, cell = text.engine, text.engine.job
    on_cuda = cell.device.startswith("cuda")
    sha256 = cell.files.tokenizer_sha256 or "unknown"
    names = ("protocol", "context", "stride", "limit")  # what decides how tokens become windows
    facts = {
        "weights_sha256": cell.files.weights_sha256,
        "precision": [cell.precision.use, cell.precision.options.model_dump(mode="json")],
        "engine": cell.precision.engine,
        "attention": engine.attested.get("attention"),
        "ids_sha256": text.text.ids_sha256,
        "text_sha256": text.text.text_sha256,
        "tokenizer": f"{type(engine.require_tokenizer()).__name__} {sha256[:12]}",
        "tokens": len(text.text.ids),
        "settings": {name: text.protocol[name] for name in names},
        "batch_size": options.batch_size,
        "device": torch.cuda.get_device_name(cell.device) if on_cuda else "cpu",
        "libraries": describe_libraries(*list_libraries()),
    }
    # No hash covers code that comes with a model: its distributions are never taken for the same.
    return facts | ({"once": uuid.uuid4().hex} if cell.model.trust_remote_code else {})


def _check_same_tokens(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str, cell: str, reference: str
) -> None:
    """Refuse to compare other tokens than the reference's, or the same ones in other windows."""
    if theirs["text_sha256"] != ours["text_sha256"]:
        raise InputError(f"text {path!r} has changed since {reference} was measured; run again")
    if theirs["ids_sha256"] != ours["ids_sha256"]:
        raise InputError(
            f"text {path!r} has {ours['tokens']:,} tokens for {cell} (tokenizer "
            f"{ours['tokenizer']}), and {theirs['tokens']:,} other ones for the reference "
            f"{reference} (tokenizer {theirs['tokenizer']}): only the same tokens can be compared; "
            "give the model the reference's `tokenizer:`"
        )
    differing = [k for k, v in ours["settings"].items() if theirs["settings"].get(k) != v]
    if differing:
        raise InputError(
            f"{reference} was measured with another {', '.join(differing)} than {cell}; "
            "run the reference again"
        )


METRIC = Metric(
    __doc__ or "",
    Options,
    DIVERGENCE_VALUES,
    measure,
    (Column("KL\nnats", "kl_mean", ".4f"), Column("top-1", "top1_agreement", ".3f")),
    weighs={"quality": Column("divergence, nats/token", "kl_mean", ".4f", stderr=True)},
    charts=(
        Chart(
            "divergence by quarter of the window",
            (Column("KL, nats/token", "kl_mean", ".4f", stderr=True),),
        ),
    ),
    needs=frozenset({"open_outputs"}),
    how=frozenset({"text", "distribution", "batch_size"}),
    least_context=lambda options: options.context,
    count_items=check_text,
    compare=compare,
    is_intact=is_intact,
    needs_reference=True,
)
