"""The bytes that a model reads per decode step, and the products that a token costs."""

from typing import Any

from torch import nn

from harness.engines.base import Counts, Work
from harness.engines.transformers.forward import keeps_logits
from harness.engines.transformers.kv_cache import find_size, kv_bytes_per_token
from harness.engines.transformers.layers import read_layers

# A config with more than one of these has weights that a token need not touch; so has a model that
# keeps its experts' matrices in one tensor of three dimensions.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def count_work(model: Any, counts: Counts) -> Work:
    """Count per decode step and per token; ``counts`` is `count_bytes` of the model."""
    head = model.get_output_embeddings()
    used = None if head is None else head.weight.data_ptr()
    tables = {
        m.weight.data_ptr(): m.weight.untyped_storage().nbytes()
        for m in model.modules()
        if isinstance(m, nn.Embedding)
    }
    looked_up = sum(size for address, size in tables.items() if address != used)
    text = model.config.get_text_config(decoder=True)
    routed = any((getattr(text, name, None) or 0) > 1 for name in _EXPERTS) or any(
        parameter.dim() > 2 for parameter in model.parameters()
    )
    kv_bytes = kv_bytes_per_token(model.config, model.dtype.itemsize)
    held = counts.weights_bytes + counts.constants_bytes
    return Work(
        weight_bytes=None if routed else held - looked_up,
        kv_bytes=kv_bytes,
        layer_weights=None if routed else counts.linear_weights,
        head_weights=_count_head(model, head),
        # Where the cache is no plain one, neither is attention.
        attention_width=None if kv_bytes is None else _attention_width(text),
        head_everywhere=not keeps_logits(model),
        logit_bytes=model.get_input_embeddings().num_embeddings * model.dtype.itemsize,
        attention_curve=attention_curve(text, model.dtype.itemsize),
    )


def _count_head(model: Any, head: Any) -> int:
    layers = read_layers(model)
    names = [name for name, module in layers.linear.items() if module is head]
    if names:
        return layers.count_weights(names[0])
    return 0 if head is None else int(head.weight.numel())


def _attention_width(text: Any) -> int | None:
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    layers, heads, hidden = (find_size(text, name) for name in names)
    if layers is None or heads is None or hidden is None:
        return None
    return layers * heads * (getattr(text, "head_dim", None) or hidden // heads)


def attention_curve(text: Any, element_bytes: int) -> float:
    """Bytes per token² of the attention that holds all scores, and their softmax in float32.

    Of transformers' implementations only ``eager`` does; 0 for the others.
    """
    if getattr(text, "_attn_implementation", None) != "eager":
        return 0.0
    return float((find_size(text, "num_attention_heads") or 0) * (element_bytes + 4))
