"""Hand a model's KV cache on from a shared prefix to the prompts that continue it."""

import inspect
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
    if not _takes(model, "past_key_values"):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def can_pack(model: Any) -> bool:
    """Whether the model may be told each token's position, and which tokens it sees."""
    return _takes(model, "position_ids") and _takes(model, "attention_mask")


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
class OpenPath:
    """Keys and values of the tokens that later ones still follow.

    ``entries`` (n,) are these tokens' numbers in the tree, ``ends`` where what follows them ends.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    entries: torch.Tensor
    ends: torch.Tensor

    def open_cache(self) -> Any:
        """A cache of the model's own, to go on from; `DynamicCache` given tensors would copy."""
        cache = DynamicCache()
        for keys, values in self.layers:
            made = DynamicLayer()
            made.lazy_initialization(keys, values)
            made.keys, made.values = keys, values
            cache.layers.append(made)
        return cache


def keep_path(
    cache: Any, entries: torch.Tensor, ends: torch.Tensor, kept: torch.Tensor
) -> OpenPath | None:
    """The columns ``kept`` (n,) of a pass's cache, one row that holds ``entries``.

    None where the cache holds no such keys and values.
    """
    held = getattr(cache, "layers", None) or ()
    layers = []
    for layer in held:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.shape[-2] != len(entries):
            return None
        columns = kept.to(keys.device)
        layers.append((keys[..., columns, :], values[..., columns, :]))
    return OpenPath(layers, entries[kept], ends[kept]) if layers else None


def _takes(model: Any, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters
