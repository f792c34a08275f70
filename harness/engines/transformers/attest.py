"""What a loaded model really is: storage dtypes, quantisation, attention, TF32, kernels.

Walks the modules and trusts nothing that was asked for; states only what can be read from the
loaded objects and from the libraries.
"""

from __future__ import annotations

import copy
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from harness.engines.transformers.kernels import describe_kernels
from harness.engines.transformers.layers import (
    dtype_name,
    find_constants,
    is_foreign,
    is_packed,
    layer_kind,
    linear_layers,
    logical_numel,
    matches,
)

SKIPPED = "named in llm_int8_skip_modules"
UNCONVERTED = "not converted, for no reason that the model or its loader gives"


def attest(model: Any) -> dict[str, Any]:
    """State what was loaded.

    ``quantisation`` is None, 'int8', 'nf4', 'fp4' or 'mixed'; ``linear_dtypes`` counts the linear
    layers by the dtype they store, ``dtypes`` every tensor of floats, and ``odd_dtypes`` names the
    fewer of them. ``foreign_layers`` hold their weights as neither plain torch nor bitsandbytes
    does, in tensors that a walk over parameters need not see. Tensors that the architecture itself
    holds in another dtype than the rest are in ``kept_by_architecture`` instead. Of a quantised
    model also: ``unquantised`` (the weight matrices left alone, by reason), ``skipped_linears``
    (those among them without a good one), ``unquantised_share`` (how much of the weights between
    the embedding and the head they are) and the settings of the quantised layers. Names have * for
    a layer's number.
    """
    linears = list(linear_layers(model))
    quantised = {kind for _, layer in linears if (kind := layer_kind(layer)) is not None}
    head = model.get_output_embeddings()
    own_head = head is not None and not is_foreign(head)
    found: dict[str, Any] = {
        "quantisation": None if not quantised else "mixed",
        "linear_dtypes": _count(dtype_name(layer.weight) for _, layer in linears),
        **_attest_dtypes(model),
        "output_head": (layer_kind(head) or dtype_name(head.weight)) if own_head else None,
        "tied_head": _has_tied_head(model),
        "tf32": _tf32_in_force(),
        "tf32_switches": _read_tf32_switches(),
        "autocast": _autocast_in_force(model),
        "foreign_layers": _group(_find_foreign(model)),
        "attention": _attest_attention(model),
        "kernels": describe_kernels(model),
    }
    if quantised:
        found |= _attest_left_alone(model)
    if len(quantised) == 1:
        kind = quantised.pop()
        found["quantisation"] = kind
        layers = [layer for _, layer in linears if layer_kind(layer) == kind]
        found |= _attest_int8(layers) if kind == "int8" else _attest_four_bit(layers)
    return found


def _attest_dtypes(model: Any) -> dict[str, Any]:
    """The dtypes of every parameter that is held as floats, biases and norms included."""
    floats = {name: p for name, p in model.named_parameters() if not is_packed(p)}
    kept = _find_kept(model, floats)
    held = {name: dtype_name(p) for name, p in floats.items() if name not in kept}
    counts = _count(held.values())
    most = max(counts, key=lambda dtype: counts[dtype], default=None)
    odd = {d: _group(n for n in held if held[n] == d) for d in counts if d != most}
    kept_dtypes = sorted({dtype_name(p) for p in kept.values()})
    kept_names = {d: _group(n for n, p in kept.items() if dtype_name(p) == d) for d in kept_dtypes}
    return {"dtypes": counts, "odd_dtypes": odd, "kept_by_architecture": kept_names}


def _find_kept(model: Any, floats: dict[str, Any]) -> dict[str, Any]:
    """Parameters that the architecture holds in another dtype than the one it was loaded in.

    Either transformers is told to keep them in float32 (`_keep_in_fp32_modules`), or the model's
    own code makes them in a dtype of their own: then an empty model of this config has it as well.
    """
    import torch

    main = model.config.dtype or torch.float32
    main = getattr(torch, main) if isinstance(main, str) else main
    odd = {name: p for name, p in floats.items() if p.dtype != main}
    if not odd:
        return {}
    patterns: list[str] = []
    if main is torch.float16:
        patterns += model._keep_in_fp32_modules or ()
    if main in (torch.float16, torch.bfloat16):
        patterns += model._keep_in_fp32_modules_strict or ()
    told = [re.compile(pattern.replace("*", ".*")) for pattern in patterns]
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        own = dict(type(model)._from_config(config, dtype=main).named_parameters())
    return {
        name: p
        for name, p in odd.items()
        if (p.dtype is torch.float32 and any(pattern.search(name) for pattern in told))
        or (name in own and own[name].dtype == p.dtype)
    }


def _attest_left_alone(model: Any) -> dict[str, Any]:
    """The weight matrices that a quantised model holds as floats, and why.

    Looks at parameters, not layers: mixtures of experts keep theirs in one tensor of three
    dimensions, which bitsandbytes passes over.
    """
    from torch import nn

    head = model.get_output_embeddings()
    reasons: dict[str, list[str]] = {}
    alone, every = 0, 0
    for name, module in model.named_modules():
        for own_name, p in module.named_parameters(recurse=False):
            if p.dim() < 2 and not is_packed(p):
                continue
            outside = isinstance(module, nn.Embedding) or module is head
            every += 0 if outside else logical_numel(p)
            if not is_packed(p):
                alone += 0 if outside else p.numel()
                full = f"{name}.{own_name}".strip(".").removesuffix(".weight")
                reasons.setdefault(_explain(model, name, module, p), []).append(full)
    return {
        "unquantised": {reason: _group(names) for reason, names in sorted(reasons.items())},
        "skipped_linears": [*reasons.get(SKIPPED, ()), *reasons.get(UNCONVERTED, ())],
        "unquantised_share": alone / every if every else 0.0,
    }


def _explain(model: Any, name: str, module: Any, parameter: Any) -> str:
    """Why this matrix was left as floats."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if module is model.get_output_embeddings():
        return "output head, tied to the embedding" if _has_tied_head(model) else "output head"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, (nn.Linear, Conv1D)):
        return _explain_linear(model, name, module)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return "convolution"
    if parameter.dim() > 2 and "expert" in name:
        return "fused experts, which bitsandbytes passes over"
    return "no linear layer"


def _explain_linear(model: Any, name: str, layer: Any) -> str:
    config = getattr(model.config, "quantization_config", None)
    if matches(name, getattr(config, "llm_int8_skip_modules", None) or ()):
        return SKIPPED
    if matches(name, model._keep_in_fp32_modules or ()):
        return "kept in float32 by its architecture"
    if name == list(model.named_parameters())[-1][0].removesuffix(".weight"):
        return "the model's last layer, which transformers leaves alone"
    kind = type(layer).__name__
    if kind in ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt"):
        return UNCONVERTED
    return f"a {kind}, which bitsandbytes passes over"


def _attest_four_bit(layers: list[Any]) -> dict[str, Any]:
    states = [layer.weight.quant_state for layer in layers]
    return {
        "quant_storage": _only({dtype_name(layer.weight) for layer in layers}),
        "double_quant": _only({bool(state.nested) for state in states}),
        "block_size": _only({int(state.blocksize) for state in states}),
        "nested_block_size": _only(
            {int(state.state2.blocksize) if state.nested else None for state in states}
        ),
        "compute_dtype": _only({str(la.compute_dtype).removeprefix("torch.") for la in layers}),
        "nonfinite_constants": _count_nonfinite(layers),
    }


def _attest_int8(layers: list[Any]) -> dict[str, Any]:
    return {
        "quant_storage": "int8",
        "block_size": "row",
        "threshold": _only({float(layer.state.threshold) for layer in layers}),
        "nonfinite_constants": _count_nonfinite(layers),
    }


def _find_foreign(model: Any) -> Iterator[str]:
    """Names of foreign modules, without those within one that is named already."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if not name.startswith(inside) and is_foreign(module):
            inside += (f"{name}.",)
            yield name


def _attest_attention(model: Any) -> Any:
    """The implementation that the text model's modules call, or a list where they disagree."""
    text = type(model.config.get_text_config())
    configs = [getattr(module, "config", None) for module in model.modules()]
    own = [config for config in configs if type(config) is text] or [model.config]
    return _only({getattr(config, "_attn_implementation", None) for config in own})


def _count_nonfinite(layers: list[Any]) -> int:
    constants = [t for layer in layers for t in find_constants(layer) if t.is_floating_point()]
    return sum(int((~t.isfinite()).sum()) for t in constants)


def _only(values: set[Any]) -> Any:
    """The one value that every layer agrees on, else all of them as a list."""
    return values.pop() if len(values) == 1 else sorted(values, key=str)


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _group(names: Iterable[str]) -> list[str]:
    """Names that differ in a layer's number only as one, with * in its place."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names))


def _has_tied_head(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or is_foreign(head) or is_foreign(embedding):
        return False
    return bool(head.weight.data_ptr() == embedding.weight.data_ptr())


def _read_tf32_switches() -> dict[str, Any]:
    import torch

    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": bool(torch.backends.cudnn.allow_tf32),
        "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE"),
    }


def _autocast_in_force(model: Any) -> bool:
    """Whether products are computed in another dtype than that of what is multiplied."""
    import torch

    return torch.is_autocast_enabled(model.device.type)


def _tf32_in_force() -> bool:
    """Whether matrix products or convolutions may use it."""
    switches = _read_tf32_switches()
    on = switches["float32_matmul_precision"] != "highest" or switches["cudnn_allow_tf32"]
    # cuBLAS and cuDNN obey the variable whatever the switches say.
    return bool(on and switches["NVIDIA_TF32_OVERRIDE"] != "0")
