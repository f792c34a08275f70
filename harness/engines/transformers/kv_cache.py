"""Bytes of the key-value cache: from a model's config, and of a cache that was really built.

From the config only where every layer keeps keys and values of all tokens. Latent attention
(DeepSeek), state-space layers and sliding windows keep something else, and each library version its
own: there the answer is None and only the measured figure counts.
"""

from typing import Any

from harness.engines.transformers.count import sum_storages

# Set in a config, each of them means that the cache is no plain one of keys and values.
_OTHERWISE = (
    "kv_lora_rank",
    "sliding_window",
    "attention_chunk_size",
    "num_kv_shared_layers",
    "kv_sharing_modes",
    "v_head_dim",
    "conv_kernel",
    "mamba_d_state",
    "state_size",
    "is_encoder_decoder",
    "H_cycles",
)


def kv_bytes_per_token(config: Any, element_bytes: int) -> int | None:
    """Bytes of keys and values per token and sequence, over all layers; None where unknown.

    ``config`` is a transformers config, ``element_bytes`` the size of one cached number: layers ·
    2 · key-value heads · head width · ``element_bytes``.
    """
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in kinds):
        return None
    if any(getattr(text, name, None) for name in _OTHERWISE if not (kinds and "window" in name)):
        return None
    layers = find_size(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads = find_size(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
    hidden = find_size(text, "hidden_size", "n_embd", "d_model")
    if layers is None or heads is None:
        return None
    width = find_size(text, "head_dim") or (hidden // heads if hidden else None)
    if width is None:
        return None
    attention = getattr(text, "attn_config", None)  # DBRX
    kv_heads = find_size(text, "num_key_value_heads") or find_size(attention, "kv_n_heads") or heads
    # Falcon's newer architecture ignores `multi_query` and caches its few heads once per query.
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        kv_heads = 1
    return layers * 2 * kv_heads * width * element_bytes


def cache_bytes(cache: Any) -> int | None:
    """Bytes that a transformers cache holds now: every storage of its layers, each once.

    Counters of tokens, single numbers, are left out. None for what is no such cache.
    """
    if not hasattr(cache, "layers"):
        return None
    return sum_storages(cache.layers, smallest=2)


def find_max_context(config: Any) -> int | None:
    """The longest sequence that a model was made for, in tokens; None where it has no limit."""
    return find_size(config, "max_position_embeddings", "n_positions", "n_ctx")


def find_size(config: Any, *names: str) -> int | None:
    """The first of ``names`` that the config gives as a positive integer."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
