"""footprint: how many parameters there are, and every byte that holds them.

METHOD: logical count (what the architecture has), stored count (elements actually held), and
``numel()``'s naive count, which halves or doubles for packed weights and is shown as the trap it
is. Bytes with and without quantisation constants (``absmax``, code books, nested state), which
transformers' ``get_memory_footprint`` leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.options import Column, OptionsBase, ValueSpec
from harness.record import Measured, Record, Value
from harness.values import divide, make_values

if TYPE_CHECKING:
    from harness.metrics._forward import MeasureContext
    from harness.models.load import LoadedCell

NEEDS_FRESH_PROCESS = False
REFERENCE_REUSABLE = True


class Options(OptionsBase):
    """footprint has no options."""


VALUES = {
    "parameters": ValueSpec("parameters", None, "logical parameters; tied ones once"),
    "parameters_stored": ValueSpec("elements", None, "elements of every tensor that is held"),
    "parameters_naive": ValueSpec("elements", None, "numel() summed, packed weights as they are"),
    "weights_bytes": ValueSpec("bytes", "lower", "weights, without quantisation constants"),
    "constants_bytes": ValueSpec("bytes", "lower", "quantisation constants"),
    "buffers_bytes": ValueSpec("bytes", "lower", "buffers, such as rotary frequencies"),
    "total_bytes": ValueSpec("bytes", "lower", "everything the loaded model holds"),
    "bits_per_weight": ValueSpec("bits", "lower", "linear layers (the head apart), constants in"),
    "bits_per_parameter": ValueSpec("bits", "lower", "total_bytes in bits over parameters"),
    "size_ratio": ValueSpec(
        "",
        "lower",
        "total_bytes over the reference's",
        paired=True,
        of="total_bytes",
        neutral=1.0,
    ),
}
HEADLINE = (
    Column("weights MB", "total_bytes", ".2f", 1e6),
    Column("×ref", "size_ratio", ".3f"),
    Column("bits/w", "bits_per_weight", ".2f"),
)


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """Counted right after loading, before any forward pass could repack a weight."""
    counts = dict(loaded.counts)
    weights, held = counts.pop("linear_weights"), counts.pop("linear_bytes")
    numbers: dict[str, int | float | None] = {
        **counts,
        "bits_per_weight": 8 * held / weights if weights else None,
        "bits_per_parameter": 8 * counts["total_bytes"] / counts["parameters"],
    }
    return Measured(values=make_values(VALUES, numbers))


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Exact: bytes over bytes."""
    return make_values(VALUES, {"size_ratio": divide(candidate, reference, "total_bytes")})
