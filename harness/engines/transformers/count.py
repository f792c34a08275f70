"""Parameters and bytes of a loaded model, and what the allocator says that it holds."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from harness.engines.transformers.layers import (
    find_constants,
    is_packed,
    linear_layers,
    logical_numel,
)

if TYPE_CHECKING:
    import torch
    from torch import nn


def count_bytes(model: nn.Module) -> dict[str, int]:
    """Parameters and bytes of a model that has run no forward pass yet.

    ``parameters`` is logical (packed weights unpacked, tied ones once), ``parameters_stored`` the
    elements of every tensor held, ``parameters_naive`` the sum of ``numel()`` over
    ``parameters()``. Bytes are those of distinct storages, so shared code books count once;
    ``total_bytes`` is the sum of quantised weights, their constants, unquantised weights and
    buffers. ``linear_weights`` and ``linear_bytes`` are of the linear layers, the head apart.
    """
    constants = _distinct(t for _, layer in linear_layers(model) for t in find_constants(layer))
    weights = _distinct(model.parameters(), besides=constants)
    buffers = _distinct(model.buffers(), besides=constants | weights)
    quantised = {address: p for address, p in weights.items() if is_packed(p)}
    sizes = {
        "quantised_bytes": _sum_bytes(quantised),
        "constants_bytes": _sum_bytes(constants),
        "unquantised_bytes": _sum_bytes(weights) - _sum_bytes(quantised),
        "buffers_bytes": _sum_bytes(buffers),
    }
    held = [*weights.values(), *constants.values(), *buffers.values()]
    inner = [layer for name, layer in linear_layers(model) if _in_body(model, layer, name)]
    in_linears = _distinct(t for layer in inner for t in (layer.weight, *find_constants(layer)))
    return {
        "parameters": sum(logical_numel(p) for p in model.parameters()),
        "parameters_stored": sum(t.numel() for t in held),
        "parameters_naive": sum(p.numel() for p in model.parameters()),
        "weights_bytes": _sum_bytes(weights),
        **sizes,
        "total_bytes": sum(sizes.values()),
        "linear_weights": sum(logical_numel(layer.weight) for layer in inner),
        "linear_bytes": _sum_bytes(in_linears),
    }


def sum_storages(root: Any) -> int:
    """Bytes of every distinct tensor storage that can be reached from ``root``.

    Follows attributes and containers and knows nothing of how a layer keeps its weights, so that
    it also finds what `count_bytes` does not look for.
    """
    import torch

    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, types.ModuleType)):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor) and thing.numel():
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        waiting.extend(_parts(thing))
    return sum(found.values())


def read_requested_bytes(device: str) -> int | None:
    """What is asked of CUDA's caching allocator now, before it rounds up.

    None on a CPU, and under an allocator that does not keep the figure.
    """
    import torch

    if not device.startswith("cuda") or torch.cuda.get_allocator_backend() != "native":
        return None
    requested = torch.cuda.memory_stats(device).get("requested_bytes.all.current")
    return None if requested is None else int(requested)


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, (list, tuple, set)):
        yield from thing
    yield from getattr(thing, "__dict__", {}).values()


def _distinct(
    tensors: Iterable[torch.Tensor], besides: Iterable[int] = ()
) -> dict[int, torch.Tensor]:
    """Tensors by storage address, each storage once."""
    found = {t.untyped_storage().data_ptr(): t for t in tensors if t.numel()}
    return {address: t for address, t in found.items() if address not in besides}


def _sum_bytes(tensors: dict[int, torch.Tensor]) -> int:
    """Of the whole storages: several weights may be views of one."""
    return sum(int(t.untyped_storage().nbytes()) for t in tensors.values())


def _in_body(model: Any, layer: Any, name: str) -> bool:
    return layer is not model.get_output_embeddings() and name != "lm_head"
