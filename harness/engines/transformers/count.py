"""Parameters and bytes of a loaded model, and the allocator's own figure."""

import types
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Any

import torch

from harness.engines.base import Counts
from harness.engines.transformers.layers import is_whole, read_layers


def count_bytes(model: Any) -> Counts:
    """Parameters and bytes of a model that has run no forward pass yet.

    ``parameters`` is logical (packed weights unpacked, tied ones once), ``parameters_stored`` the
    elements of every tensor held, ``parameters_naive`` the sum of ``numel()`` over
    ``parameters()``. Bytes are those of distinct storages, so shared code books count once;
    ``total_bytes`` is the sum of quantised weights, their constants, unquantised weights and
    buffers.
    """
    layers = read_layers(model)
    packed = {id(t): t for layer in layers.packed.values() for t in layer.packed}
    constants = _distinct(t for layer in layers.packed.values() for t in layer.constants)
    parameters = {id(p): p for p in model.parameters()}
    weights = _distinct((packed | parameters).values(), without=constants)
    buffers = _distinct(model.buffers(), without=constants.keys() | weights.keys())
    quantised = {address: p for address, p in weights.items() if id(p) in packed or is_whole(p)}
    total_weights, total_quantised = _sum_bytes(weights), _sum_bytes(quantised)
    own_constants = {id(t) for layer in layers.packed.values() for t in layer.constants}
    plain = [p for key, p in parameters.items() if key not in packed.keys() | own_constants]
    inner = [
        name
        for name, module in layers.linear.items()
        if module is not model.get_output_embeddings() and name != "lm_head"
    ]
    return Counts(
        parameters=sum(map(layers.count_weights, layers.packed)) + sum(p.numel() for p in plain),
        parameters_stored=sum(
            t.numel() for t in chain(weights.values(), constants.values(), buffers.values())
        ),
        parameters_naive=sum(p.numel() for p in parameters.values()),
        weights_bytes=total_weights,
        quantised_bytes=total_quantised,
        constants_bytes=_sum_bytes(constants),
        unquantised_bytes=total_weights - total_quantised,
        buffers_bytes=_sum_bytes(buffers),
        total_bytes=total_weights + _sum_bytes(constants) + _sum_bytes(buffers),
        linear_weights=sum(map(layers.count_weights, inner)),
        linear_bytes=_sum_bytes(_distinct(t for name in inner for t in layers.tensors(name))),
    )


def sum_storages(root: Any, smallest: int = 1) -> int:
    """Bytes of every distinct storage reached from ``root``, of tensors of ``smallest`` or more.

    Follows attributes and containers and knows nothing of how a layer keeps its weights, so that
    it also finds tensors that `count_bytes` does not look for.
    """
    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, types.ModuleType)):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor) and thing.numel() >= smallest:
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        waiting.extend(_parts(thing))
    return sum(found.values())


def read_requested_bytes(device: str) -> int | None:
    """Bytes requested from CUDA's caching allocator now, before it rounds up.

    None on a CPU, and under an allocator that does not keep the figure.
    """
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
    tensors: Iterable[torch.Tensor], without: Collection[int] = ()
) -> dict[int, torch.Tensor]:
    """Tensors by storage address, each storage once."""
    found = {t.untyped_storage().data_ptr(): t for t in tensors if t.numel()}
    return {address: t for address, t in found.items() if address not in without}


def _sum_bytes(tensors: dict[int, torch.Tensor]) -> int:
    """Of the whole storages: several weights may be views of one."""
    return sum(int(t.untyped_storage().nbytes()) for t in tensors.values())
