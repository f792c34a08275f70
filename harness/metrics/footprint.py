"""footprint: how many parameters there are, and every byte that holds them.

Logical parameters (of the architecture), stored elements, and ``numel()``'s naive count, which is
wrong for packed weights; bytes with and without quantisation constants (``absmax``, code books,
nested state). Flagged where the bytes differ by more than 0.1 % from the allocator's figure for
loading (CUDA: the bytes asked of it; CPU: every storage reachable from the loaded model).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.descriptions import Column, Margin, Metric, OptionsBase, ValueSpec
from harness.records.record import Measured, Record, Validity, Value
from harness.records.values import divide, make_values

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext
    from harness.engines.base import Engine

_MAY_DIFFER = 1e-3
_MARGIN = Margin(relative=_MAY_DIFFER)


class Options(OptionsBase):
    """footprint has no options."""


VALUES = {
    "parameters": ValueSpec("parameters", None, "logical parameters; tied ones once"),
    "parameters_stored": ValueSpec("elements", None, "elements of every tensor that is held"),
    "parameters_naive": ValueSpec("elements", None, "numel() summed, packed weights as they are"),
    "quantised_bytes": ValueSpec("bytes", "lower", "quantised weights, without their constants"),
    "constants_bytes": ValueSpec("bytes", "lower", "quantisation constants"),
    "unquantised_bytes": ValueSpec("bytes", "lower", "weights held as floats"),
    "buffers_bytes": ValueSpec("bytes", "lower", "buffers, such as rotary frequencies"),
    "weights_bytes": ValueSpec("bytes", "lower", "quantised_bytes and unquantised_bytes"),
    "total_bytes": ValueSpec(
        "bytes", "lower", "all the loaded model holds: weights, constants, buffers", margin=_MARGIN
    ),
    "allocated_bytes": ValueSpec("bytes", "lower", "the allocator's figure for loading"),
    "unaccounted_bytes": ValueSpec("bytes", None, "allocated_bytes less total_bytes"),
    "bits_per_weight": ValueSpec("bits", "lower", "linear layers without head, with constants"),
    "bits_per_parameter": ValueSpec("bits", "lower", "total_bytes in bits over parameters"),
    "size_ratio": ValueSpec(
        "", "lower", "total_bytes over the reference's", paired=True, of="total_bytes",
        neutral=1.0, margin=_MARGIN,
    ),
}  # fmt: skip
HEADLINE = (
    Column("weights MB", "total_bytes", ".2f", 1e6),
    Column("×ref", "size_ratio", ".3f"),
    Column("bits/w", "bits_per_weight", ".2f"),
)
DETAILS = (
    Column("quantised\nMB", "quantised_bytes", ".2f", 1e6),
    Column("constants\nMB", "constants_bytes", ".2f", 1e6),
    Column("unquantised\nMB", "unquantised_bytes", ".2f", 1e6),
    Column("buffers\nMB", "buffers_bytes", ".3f", 1e6),
    Column("allocated\nMB", "allocated_bytes", ".2f", 1e6),
    Column("bits per\nparameter", "bits_per_parameter", ".2f"),
)


def measure(engine: Engine, options: Options, context: MeasureContext) -> Measured:
    """Counted right after loading, before any forward pass could repack a weight."""
    counts = engine.counts
    total, allocated, weights = counts.total_bytes, counts.allocated_bytes, counts.linear_weights
    numbers: dict[str, int | float | None] = {
        **{name: value for name, value in asdict(counts).items() if name in VALUES},
        "unaccounted_bytes": None if allocated is None else allocated - total,
        "bits_per_weight": 8 * counts.linear_bytes / weights if weights else None,
        "bits_per_parameter": 8 * total / counts.parameters,
    }
    reasons = []
    if allocated is None:
        reasons.append("allocated_bytes is unavailable with this allocator")
    elif abs(allocated - total) > _MAY_DIFFER * total:
        reasons.append(
            f"{total:,} bytes are accounted for, but the loaded model holds {allocated:,}: "
            f"{abs(allocated - total) / total:.2%} apart"
        )
    return Measured(
        values=make_values(VALUES, numbers),
        protocol={"allocated": counts.allocated_method},
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Exact: bytes over bytes."""
    return make_values(VALUES, {"size_ratio": divide(candidate, reference, "total_bytes")})


_NEEDS = frozenset({"counts"})
METRIC = Metric(
    __doc__ or "",
    Options,
    VALUES,
    measure,
    HEADLINE,
    DETAILS,
    weighs={"memory": Column("weights, MB", "total_bytes", ",.2f", 1e6)},
    needs=_NEEDS,
    compare=compare,
)
