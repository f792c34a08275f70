"""The linear layers of a loaded model, and how each one stores its weights.

Quantised layers are read by the `LayerReader`s of the precisions: nothing here knows a library.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.catalog import list_readers
from harness.descriptions import LayerReader, PackedLayer

# Their layers keep weights behind a method, or in tensors that look like plain ones.
_NEVER_PLAIN = ("torch.ao.nn.", "torchao.")


@dataclass(frozen=True)
class Layers:
    """Every layer that multiplies by a weight matrix, by name; the embedding is not one.

    ``packed`` describes the quantised ones, ``readers`` are the readers that recognised them.
    """

    linear: dict[str, Any]
    packed: dict[str, PackedLayer]
    readers: dict[str, LayerReader]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of quantisation that occur, sorted."""
        return tuple(sorted({layer.kind for layer in self.packed.values()}))

    def tensors(self, name: str) -> tuple[torch.Tensor, ...]:
        """The weight of one layer, with its constants where it is quantised; no bias."""
        layer = self.packed.get(name)
        return (self.linear[name].weight,) if layer is None else (*layer.packed, *layer.constants)

    def count_weights(self, name: str) -> int:
        """The number of weights of one layer, unpacked."""
        layer = self.packed.get(name)
        return int(self.linear[name].weight.numel()) if layer is None else prod(layer.shape)

    def stored_dtype(self, name: str) -> str:
        """The dtype in which one layer stores its weights, packed or not."""
        return dtype_name(self.tensors(name)[0])


def read_layers(model: nn.Module) -> Layers:
    """Read every linear layer of a model."""
    linear: dict[str, Any] = {}
    packed: dict[str, PackedLayer] = {}
    readers: dict[str, LayerReader] = {}
    known = list_readers()
    for name, module in model.named_modules():
        for reader in known:
            found = reader.read(module)
            if found is not None:
                packed[name], readers[name] = found, reader
        if name in packed or isinstance(module, (nn.Linear, Conv1D)):
            linear[name] = module
    return Layers(linear, packed, readers)


def find_rounding(model: Any) -> float:
    """The largest relative error of a product: of the model's dtype, and of those its layers name.

    Weights that are only stored in fewer bits leave it as it is; inputs rounded to integers do not.
    """
    settings = [layer.settings for layer in read_layers(model).packed.values()]
    names = {s[key] for s in settings for key in s if key.endswith("_dtype")}
    dtypes = {model.dtype, *(getattr(torch, name, model.dtype) for name in names)}
    return max(
        torch.finfo(dtype).eps if dtype.is_floating_point else 2 / torch.iinfo(dtype).max
        for dtype in dtypes
    )


def is_foreign(module: nn.Module) -> bool:
    """Whether a module holds weights in a form that neither torch nor a known library explains.

    torch.ao keeps them behind a method, torchao and others in a class of tensors of their own;
    most hold whole numbers, as parameters or in buffers that are named as weights.
    """
    readers = list_readers()
    own = _is_owned(module, readers)
    if not own and type(module).__module__.startswith(_NEVER_PLAIN):
        return True
    if inspect.ismethod(getattr(module, "weight", None)):
        return True
    buffers = [b for name, b in module.named_buffers(recurse=False) if "weight" in name]
    return any(
        (type(weight) not in (torch.Tensor, nn.Parameter) and not _is_owned(weight, readers))
        or (not own and weight.dim() > 1 and is_whole(weight))
        for weight in (*module.parameters(recurse=False), *buffers)
    )


def _is_owned(thing: object, readers: Sequence[LayerReader]) -> bool:
    return any(reader.owns(thing) for reader in readers)


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds whole numbers, as packed weights are."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def dtype_name(tensor: torch.Tensor) -> str:
    """The dtype without torch's name in front of it."""
    return str(tensor.dtype).removeprefix("torch.")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether transformers' quantisers match a module's name with one of these patterns."""
    return any(
        name == pattern or name.startswith(f"{pattern}.") or name.endswith(pattern)
        for pattern in patterns
    )
