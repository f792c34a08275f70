"""How the layers and weights of a loaded model are read: torch's own and bitsandbytes'.

bitsandbytes' layers are read by their attributes, without importing it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_FOREIGN = ("torch.ao.nn.", "torchao.")
_BITSANDBYTES = "bitsandbytes."


def linear_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer that multiplies by a weight matrix, by name; the embedding is none."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            yield name, module


def is_foreign(module: Any) -> bool:
    """Whether a module holds its weights as neither plain torch nor bitsandbytes does.

    torch.ao keeps them behind a method, torchao and others in a class of tensors of their own;
    most hold whole numbers, as parameters or in buffers that are named as weights.
    """
    import torch

    home = type(module).__module__
    if home.startswith(_FOREIGN) or inspect.ismethod(getattr(module, "weight", None)):
        return True
    buffers = [b for name, b in module.named_buffers(recurse=False) if "weight" in name]
    weights = [*module.parameters(recurse=False), *buffers]
    own = _is_of_bitsandbytes(module)
    return any(
        not (type(weight) in (torch.Tensor, torch.nn.Parameter) or _is_of_bitsandbytes(weight))
        or (not own and weight.dim() > 1 and _is_of_integers(weight))
        for weight in weights
    )


def _is_of_bitsandbytes(thing: Any) -> bool:
    return type(thing).__module__.startswith(_BITSANDBYTES)


def _is_of_integers(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def layer_kind(layer: Any) -> str | None:
    """How a linear layer is quantised: 'int8', 'nf4', 'fp4' or None."""
    name = type(layer).__name__
    if name == "Linear8bitLt" and dtype_name(layer.weight) == "int8":
        return "int8"
    if name == "Linear4bit" and getattr(layer.weight, "quant_state", None) is not None:
        return str(layer.weight.quant_state.quant_type)
    return None


def find_constants(layer: Any) -> Iterator[torch.Tensor]:
    """Every tensor that a quantised layer needs to be read, besides its packed weight."""
    import torch

    places = [getattr(layer.weight, "quant_state", None), getattr(layer, "state", None)]
    while places:
        state = places.pop()
        if state is None:
            continue
        places.append(getattr(state, "state2", None))
        for attribute in ("absmax", "code", "offset", "SCB"):
            tensor = getattr(state, attribute, None)
            if isinstance(tensor, torch.Tensor):
                yield tensor
    if isinstance(getattr(layer.weight, "SCB", None), torch.Tensor):
        yield layer.weight.SCB


def is_packed(parameter: Any) -> bool:
    """Whether a parameter holds quantised weights."""
    packed = getattr(parameter, "quant_state", None) is not None
    return packed or not parameter.is_floating_point()


def logical_numel(parameter: Any) -> int:
    """The number of weights, of which a packed parameter holds several per element."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())


def dtype_name(tensor: torch.Tensor) -> str:
    """The dtype without torch's name in front of it."""
    return str(tensor.dtype).removeprefix("torch.")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether transformers' quantisers take a module to be meant by one of these names."""
    return any(
        name == pattern or name.startswith(f"{pattern}.") or name.endswith(pattern)
        for pattern in patterns
    )
