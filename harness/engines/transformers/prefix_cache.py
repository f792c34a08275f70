"""Hand a model's KV cache on from a shared prefix to the prompts that continue it."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def can_share(model: Any) -> bool:
    """Whether the model's cache holds plain keys and values, which can be cut and copied.

    A window, a state space or a cache of the model's own cannot; nor can LongRoPE's, whose factors
    change with the longest row of a pass. Prompts of these models are computed whole.
    """
    if getattr(model, "_is_stateful", False) or longrope_boundary(model) is not None:
        return False
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def longrope_boundary(model: Any) -> int | None:
    """From how many tokens on the model takes LongRoPE's other factors; None without LongRoPE."""
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or {}
    for parameters in (given, *(v for v in given.values() if isinstance(v, dict))):
        if parameters.get("rope_type") == "longrope":
            own = parameters.get("original_max_position_embeddings")
            return int(own or config.max_position_embeddings)
    return None


@dataclass(frozen=True)
class CachedPrefixes:
    """Keys and values of a batch of prefixes, all of ``length`` tokens."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    length: int

    def take(self, rows: Sequence[int]) -> Any:
        """The model's cache with the prefixes at ``rows``, one for each prompt that follows.

        `DynamicCache` given tensors would copy them.
        """
        cache = DynamicCache()
        picked = torch.tensor(rows, device=self.layers[0][0].device)
        for layer in self.layers:
            keys, values = (_take(tensor, picked) for tensor in layer)
            made = DynamicLayer()
            made.lazy_initialization(keys, values)
            made.keys, made.values = keys, values
            cache.layers.append(made)
        return cache


def read_cache(cache: Any, length: int) -> CachedPrefixes | None:
    """Keys and values that a pass left in the cache; None where there are none to be read."""
    held = getattr(cache, "layers", None) or ()
    layers = [(getattr(x, "keys", None), getattr(x, "values", None)) for x in held]
    if not layers or any(keys is None for keys, _ in layers):
        return None
    return CachedPrefixes(layers, length)  # type: ignore[arg-type]


def _take(cached: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a layer's keys or values; the only one, for however many, without a copy."""
    if cached.shape[0] == 1:
        return cached.expand(len(rows), *cached.shape[1:])
    return cached[rows]
