"""How much of a device's bandwidth and arithmetic a generation needs, and what share it used.

The work is counted from the loaded model and its config; what cannot be told is None. All but
`count_work` is pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.engines.transformers.forward import keeps_logits
from harness.engines.transformers.kv_cache import kv_bytes_per_token
from harness.engines.transformers.layers import logical_numel

if TYPE_CHECKING:
    from harness.engines.transformers.load import LoadedCell

# A config with more than one of these has weights that a token need not touch; so has a model that
# keeps its experts' matrices in one tensor of three dimensions.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Work:
    """What one model needs, whatever the batch.

    ``weight_bytes`` are read per decode step: weights and quantisation constants without the
    tables that are only looked up in; None for a mixture of experts, of which a step reads a part
    that depends on the tokens. ``layer_weights`` and ``head_weights`` are multiplied once per
    token; ``attention_width`` is layers·heads·head width. ``head_everywhere``: the model gives the
    logits of a whole prompt.
    """

    weight_bytes: int | None
    kv_bytes: int | None
    layer_weights: int | None
    head_weights: int
    attention_width: int | None
    head_everywhere: bool = False

    def step_bytes(self, batch: int, prompt_tokens: int, new_tokens: int) -> int | None:
        """Bytes that a decode step reads: weights, and keys and values at the mean context.

        Step i of the N - 1 reads a context of prompt + i, which is prompt + N/2 on average.
        """
        if self.weight_bytes is None or self.kv_bytes is None:
            return None
        return self.weight_bytes + round(batch * self.kv_bytes * (prompt_tokens + new_tokens / 2))

    def prefill_flop(self, batch: int, prompt_tokens: int) -> int | None:
        """Additions and multiplications of reading the prompt.

        Two per weight and token; causal attention 4·width·T²/2 per sequence: products with the
        keys and with the values, half of them masked. The head only at the last position, unless
        the model gives the logits of all.
        """
        if self.layer_weights is None or self.attention_width is None:
            return None
        heads = prompt_tokens if self.head_everywhere else 1
        per_sequence = (
            2 * self.layer_weights * prompt_tokens
            + 2 * self.attention_width * prompt_tokens**2
            + 2 * self.head_weights * heads
        )
        return batch * per_sequence


def share(work: float | None, seconds: float | None, peak: float | None) -> float | None:
    """Work per second over what the device can do; None where one of them is unknown."""
    if work is None or seconds is None or peak is None:
        return None
    return work / (seconds * peak)


def count_work(loaded: LoadedCell) -> Work:
    """Count what ``loaded`` needs per step and per token."""
    from torch import nn

    model, counts = loaded.model, loaded.counts
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
    held = counts["weights_bytes"] + counts["constants_bytes"]
    return Work(
        weight_bytes=None if routed else held - looked_up,
        kv_bytes=kv_bytes,
        layer_weights=None if routed else counts["linear_weights"],
        head_weights=0 if head is None else logical_numel(head.weight),
        # Where the cache is no plain one, neither is attention.
        attention_width=None if kv_bytes is None else _attention_width(text),
        head_everywhere=not keeps_logits(model),
    )


def find_compute_dtype(loaded: LoadedCell) -> str:
    """The dtype in which the model's products are made; for int8 that of what surrounds them."""
    attested = loaded.attested.get("compute_dtype")
    return attested if attested in _COMPUTE_DTYPES else str(loaded.model.dtype).split(".")[-1]


def _attention_width(text: Any) -> int | None:
    layers, heads = (
        getattr(text, name, None) for name in ("num_hidden_layers", "num_attention_heads")
    )
    hidden = getattr(text, "hidden_size", None)
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int)):
        return None
    return layers * heads * (getattr(text, "head_dim", None) or hidden // heads)
