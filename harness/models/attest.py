"""What a loaded model really is: storage dtypes, quantisation, parameters and bytes.

Walks the modules and trusts nothing that was asked for. Reads bitsandbytes' layers by their
attributes, without importing it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def attest(model: nn.Module) -> dict[str, Any]:
    """State what was loaded.

    ``quantisation`` is None, 'int8', 'nf4', 'fp4' or 'mixed'; ``linear_dtypes`` counts the linear
    layers by the dtype they store, ``unquantised`` names the weight matrices left alone in a
    quantised model, embeddings apart, and ``unquantised_share`` which part of all its matrices'
    weights lies in them, the head apart; ``float_dtypes`` are those of matrices held as floats.
    """
    linears = list(linear_layers(model))
    kinds = {_layer_kind(layer) for _, layer in linears}
    quantised = {kind for kind in kinds if kind is not None}
    found: dict[str, Any] = {
        "quantisation": None if not quantised else "mixed",
        "linear_dtypes": dict(
            sorted(Counter(_dtype_name(layer.weight) for _, layer in linears).items())
        ),
        "float_dtypes": sorted(
            {_dtype_name(p) for p in model.parameters() if _is_float(p) and p.dim() > 1}
        ),
        "tied_head": _has_tied_head(model),
        "tf32": _tf32_in_force(),
        "attention": getattr(model.config, "_attn_implementation", None),
    }
    if quantised:
        found |= _attest_left_alone(model)
    if len(quantised) == 1:
        kind = quantised.pop()
        found["quantisation"] = kind
        layers = [layer for _, layer in linears if _layer_kind(layer) == kind]
        found |= _attest_int8(layers) if kind == "int8" else _attest_four_bit(layers)
    return found


def _attest_left_alone(model: Any) -> dict[str, Any]:
    """Weight matrices that a quantised model holds as floats.

    Looks at parameters, not layers: mixtures of experts keep theirs in one tensor of three
    dimensions, which bitsandbytes passes over.
    """
    from torch import nn

    head = model.get_output_embeddings()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) or m is head]
    outside = {id(table.weight) for table in tables}
    matrices = [(n, p) for n, p in model.named_parameters() if p.dim() > 1 or _is_packed(p)]
    left_head = [n for n, m in model.named_modules() if m is head and _is_float(m.weight)]
    inner = [(name, p) for name, p in matrices if id(p) not in outside]
    alone = [(name, p) for name, p in inner if _is_float(p) and not _is_packed(p)]
    every = sum(_logical_numel(p) for _, p in inner)
    return {
        "unquantised": [name.removesuffix(".weight") for name, _ in alone] + left_head,
        "unquantised_share": sum(p.numel() for _, p in alone) / every if every else 0.0,
    }


def linear_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every layer that multiplies by a weight matrix, by name; the embedding is none."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            yield name, module


def count_bytes(model: nn.Module) -> dict[str, int]:
    """Parameters and bytes of a model that has run no forward pass yet.

    ``parameters`` is logical (packed weights unpacked, tied ones once), ``parameters_stored`` the
    elements of every tensor held, ``parameters_naive`` the sum of ``numel()`` over
    ``parameters()``. Bytes are those of distinct storages, so shared code books count once.
    """
    constants = _distinct(t for _, layer in linear_layers(model) for t in _constants(layer))
    weights = _distinct(model.parameters(), besides=constants)
    buffers = _distinct(model.buffers(), besides=constants | weights)
    parts = {"weights_bytes": weights, "constants_bytes": constants, "buffers_bytes": buffers}
    sizes = {name: sum(_nbytes(t) for t in held.values()) for name, held in parts.items()}
    held = [*weights.values(), *constants.values(), *buffers.values()]
    inner = [layer for name, layer in linear_layers(model) if _in_body(model, layer, name)]
    return {
        "parameters": sum(_logical_numel(p) for p in model.parameters()),
        "parameters_stored": sum(t.numel() for t in held),
        "parameters_naive": sum(p.numel() for p in model.parameters()),
        **sizes,
        "total_bytes": sum(sizes.values()),
        "linear_weights": sum(_logical_numel(layer.weight) for layer in inner),
        "linear_bytes": sum(
            _nbytes(t)
            for t in _distinct(
                t for layer in inner for t in (layer.weight, *_constants(layer))
            ).values()
        ),
    }


def _layer_kind(layer: Any) -> str | None:
    name = type(layer).__name__
    if name == "Linear8bitLt" and _dtype_name(layer.weight) == "int8":
        return "int8"
    if name == "Linear4bit" and getattr(layer.weight, "quant_state", None) is not None:
        return str(layer.weight.quant_state.quant_type)
    return None


def _attest_four_bit(layers: list[Any]) -> dict[str, Any]:
    states = [layer.weight.quant_state for layer in layers]
    return {
        "double_quant": _only({bool(state.nested) for state in states}),
        "block_size": _only({int(state.blocksize) for state in states}),
        "compute_dtype": _only({str(la.compute_dtype).removeprefix("torch.") for la in layers}),
    }


def _attest_int8(layers: list[Any]) -> dict[str, Any]:
    return {"threshold": _only({float(layer.state.threshold) for layer in layers})}


def _only(values: set[Any]) -> Any:
    """The one value that every layer agrees on, else all of them as a list."""
    return values.pop() if len(values) == 1 else sorted(values, key=str)


def _constants(layer: Any) -> Iterator[torch.Tensor]:
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


def _distinct(tensors: Any, besides: Any = ()) -> dict[int, torch.Tensor]:
    """Tensors by storage address, each storage once."""
    found = {t.untyped_storage().data_ptr(): t for t in tensors if t.numel()}
    return {address: t for address, t in found.items() if address not in besides}


def _nbytes(tensor: torch.Tensor) -> int:
    """Of the whole storage: several weights may be views of one."""
    return int(tensor.untyped_storage().nbytes())


def _logical_numel(parameter: Any) -> int:
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())


def _in_body(model: Any, layer: Any, name: str) -> bool:
    return layer is not model.get_output_embeddings() and name != "lm_head"


def _has_tied_head(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight.data_ptr() == embedding.weight.data_ptr()


def _tf32_in_force() -> bool:
    import torch

    # cuBLAS obeys the variable whatever the switch says.
    forbidden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
    return torch.get_float32_matmul_precision() != "highest" and not forbidden


def _is_float(parameter: torch.Tensor) -> bool:
    return parameter.is_floating_point()


def _is_packed(parameter: Any) -> bool:
    return getattr(parameter, "quant_state", None) is not None or not _is_float(parameter)


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
