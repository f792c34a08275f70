"""int4_rows: linear weights as whole numbers of 4 bits, two in a byte, with one scale per row.

A row w becomes round(w / s) with s = max|w| / 7, so each weight is one of -7 … 7. Each product
first makes the row's floats again: this saves memory, not time. The output head stays as it is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from harness.descriptions import Device, LayerReader, OptionsBase, PackedLayer, Precision
from harness.errors import InputError
from harness.precisions.checks import check_quantised

_KIND = "int4_rows"
_LARGEST = 7
_DTYPE = "float32"  # of the products and of everything that is not quantised


class Options(OptionsBase):
    """int4_rows has no options."""


def load_arguments(options: Options, device: Device) -> dict[str, Any]:
    return {"dtype": _DTYPE}


def prepare(model: Any, options: Options, device: Device) -> None:
    """Put a packed layer in the place of every linear layer but the output head."""
    import torch

    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if type(layer) is torch.nn.Linear and layer is not head:
            if layer.in_features % 2:
                raise InputError(
                    f"int4_rows puts two weights in a byte; {name} has {layer.in_features} inputs"
                )
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, _layer_class()(layer))


def read_layer(layer: Any) -> PackedLayer | None:
    """Recognised by its class; imports no torch, for it is asked about every layer of any model."""
    if not (type(layer).__module__ == __name__ and type(layer).__name__ == "RowInt4Linear"):
        return None
    rows, half = layer.packed.shape
    return PackedLayer(
        kind=_KIND,
        shape=(rows, 2 * half),
        packed=(layer.packed,),
        constants=(layer.scales,),
        settings={"block_size": "row", "compute_dtype": _DTYPE},
    )


@cache
def _layer_class() -> Any:
    """Made at its first use: the host reads this file, too, and has no torch."""
    import torch

    class RowInt4Linear(torch.nn.Module):
        """``packed`` (out, in / 2) uint8 holds weight + 8, the even columns in the low bits."""

        def __init__(self, layer: torch.nn.Linear) -> None:
            super().__init__()
            weight = layer.weight.detach().float()
            scales = (weight.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(1e-30)
            whole = ((weight / scales).round() + 8).to(torch.uint8)
            packed = whole[:, 0::2] | (whole[:, 1::2] << 4)
            self.packed = torch.nn.Parameter(packed, requires_grad=False)
            self.scales = torch.nn.Parameter(scales, requires_grad=False)
            self.bias = layer.bias

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            pairs = torch.stack((self.packed & 15, self.packed >> 4), dim=-1)
            weight = (pairs.flatten(1).float() - 8) * self.scales
            return torch.nn.functional.linear(inputs, weight, self.bias)

    return RowInt4Linear


def check(attested: dict[str, Any], options: Options, device: Device) -> list[str]:
    return check_quantised(attested, _KIND, _DTYPE)


PRECISION = Precision(
    help=__doc__ or "",
    options=Options,
    load_arguments=load_arguments,
    prepare=prepare,
    check=check,
    matrix_bytes=lambda options, rows, columns: (rows * columns // 2, 4 * rows),
    layers=LayerReader(
        library=_KIND,
        modules=(__name__,),
        read=read_layer,
        describe_products=lambda kind, layers, device: "dequantise to float32, then torch matmul",
    ),
)
