"""Facts about a loaded model: storage dtypes, quantisation, attention, TF32, kernels.

Walks the modules and trusts nothing that was asked for; states only what can be read from the
loaded objects and from the libraries.
"""

import copy
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.engines.transformers.kernels import describe_kernels
from harness.engines.transformers.layers import (
    Layers,
    dtype_name,
    is_foreign,
    is_whole,
    matches,
    read_layers,
)

# Why a linear layer is unquantised for no good reason.
_UNCONVERTED = "not converted, for no reason that the model or its loader gives"


def attest(model: Any) -> dict[str, Any]:
    """State what was loaded; names have * in place of a layer's number.

    ``quantisation`` is None, the one kind that occurs, or 'mixed'; ``linear_dtypes`` counts the
    linear layers by the dtype they store, ``dtypes`` every float tensor, and ``odd_dtypes`` names
    the minority. ``kept_by_architecture`` are tensors that the architecture itself holds in another
    dtype. ``foreign_layers`` store weights in a form that no precision here reads, which a walk
    over parameters may miss. Of a quantised model also: ``unquantised`` (weight matrices, by the
    reason why), ``skipped_linears`` (those without a good reason), ``unquantised_share`` (of all
    weights between the embedding and the head) and the settings of the quantised layers.
    """
    layers = read_layers(model)
    head = model.get_output_embeddings()
    found: dict[str, Any] = {
        "quantisation": "mixed" if len(layers.kinds) > 1 else next(iter(layers.kinds), None),
        "linear_dtypes": _count(map(layers.stored_dtype, layers.linear)),
        **_attest_dtypes(model, layers),
        "output_head": _attest_head(layers, head),
        "tied_head": _has_tied_head(model),
        "tf32": tf32_in_force(),
        "tf32_switches": _read_tf32_switches(),
        "autocast": torch.is_autocast_enabled(model.device.type),
        "foreign_layers": _group(_find_foreign(model)),
        "attention": _attest_attention(model),
        "kernels": describe_kernels(model, layers),
    }
    if layers.packed:
        found |= _attest_unquantised(model, layers)
    if len(layers.kinds) == 1:
        found |= _attest_settings(layers)
    return found


def tf32_in_force() -> bool:
    """Whether matrix products or convolutions may use TF32."""
    switches = _read_tf32_switches()
    on = switches["float32_matmul_precision"] != "highest" or switches["cudnn_allow_tf32"]
    # cuBLAS and cuDNN obey the variable whatever the switches say.
    return bool(on and switches["NVIDIA_TF32_OVERRIDE"] != "0")


def _attest_dtypes(model: Any, layers: Layers) -> dict[str, Any]:
    """The dtypes of every parameter that is held as floats, biases and norms included."""
    packed = _list_packed(layers)
    floats = {name: p for name, p in model.named_parameters() if not _is_packed(p, packed)}
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

    Either transformers has a list to keep in float32 (`_keep_in_fp32_modules`), or the model's
    own code makes them in a dtype of their own: then an empty model of this config has it as well.
    """
    main = model.config.dtype or torch.float32
    main = getattr(torch, main) if isinstance(main, str) else main
    odd = {name: p for name, p in floats.items() if p.dtype != main}
    if not odd:
        return {}
    listed: list[str] = []
    if main is torch.float16:
        listed += model._keep_in_fp32_modules or ()
    if main in (torch.float16, torch.bfloat16):
        listed += model._keep_in_fp32_modules_strict or ()
    patterns = [re.compile(pattern.replace("*", ".*")) for pattern in listed]
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        own = dict(type(model)._from_config(config, dtype=main).named_parameters())
    return {
        name: p
        for name, p in odd.items()
        if (p.dtype is torch.float32 and any(pattern.search(name) for pattern in patterns))
        or (name in own and own[name].dtype == p.dtype)
    }


def _attest_unquantised(model: Any, layers: Layers) -> dict[str, Any]:
    """The weight matrices that a quantised model holds as floats, and why.

    Looks at parameters, not layers: mixtures of experts keep theirs in one tensor of three
    dimensions, which most libraries pass over.
    """
    head, packed = model.get_output_embeddings(), _list_packed(layers)
    reasons: dict[str, list[str]] = {}
    skipped: list[str] = []
    unquantised = 0
    quantised = sum(layers.count_weights(n) for n in layers.packed if layers.linear[n] is not head)
    for name, module in model.named_modules():
        for own_name, p in module.named_parameters(recurse=False):
            if p.dim() < 2 or _is_packed(p, packed):
                continue
            if not (isinstance(module, nn.Embedding) or module is head):
                unquantised += p.numel()
            full = f"{name}.{own_name}".strip(".").removesuffix(".weight")
            reason, is_good = _explain(model, layers, name, module, p)
            reasons.setdefault(reason, []).append(full)
            skipped += [] if is_good else [full]
    total = quantised + unquantised
    return {
        "unquantised": {reason: _group(names) for reason, names in sorted(reasons.items())},
        "skipped_linears": skipped,
        "unquantised_share": unquantised / total if total else 0.0,
    }


def _explain(
    model: Any, layers: Layers, name: str, module: Any, parameter: Any
) -> tuple[str, bool]:
    """Why this matrix was left as floats, and whether that is a good reason."""
    library = next(iter(layers.readers.values())).library
    if module is model.get_output_embeddings():
        tied = ", tied to the embedding" if _has_tied_head(model) else ""
        return f"output head{tied}", True
    if isinstance(module, nn.Embedding):
        return "embedding", True
    if isinstance(module, (nn.Linear, Conv1D)):
        return _explain_linear(model, layers, name, module)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return "convolution", True
    if parameter.dim() > 2 and "expert" in name:
        return f"fused experts, which {library} passes over", True
    return "no linear layer", True


def _explain_linear(model: Any, layers: Layers, name: str, layer: Any) -> tuple[str, bool]:
    readers = tuple(dict.fromkeys(layers.readers.values()))
    config = getattr(model.config, "quantization_config", None)
    for option in filter(None, (reader.skip_option for reader in readers)):
        if matches(name, getattr(config, option, None) or ()):
            return f"named in {option}", False
    if matches(name, model._keep_in_fp32_modules or ()):
        return "kept in float32 by its architecture", True
    if name == list(model.named_parameters())[-1][0].removesuffix(".weight"):
        return "the model's last layer, which transformers does not quantise", True
    if type(layer) in (nn.Linear, Conv1D) or any(reader.owns(layer) for reader in readers):
        return _UNCONVERTED, False
    return f"a {type(layer).__name__}, which {readers[0].library} passes over", True


def _attest_settings(layers: Layers) -> dict[str, Any]:
    """The settings of layers that are all of one kind; a list where they disagree."""
    packed = list(layers.packed.values())
    names = dict.fromkeys(name for layer in packed for name in layer.settings)
    constants = (t for layer in packed for t in layer.constants if t.is_floating_point())
    return {
        **{name: _only({layer.settings.get(name) for layer in packed}) for name in names},
        "nonfinite_constants": sum(int((~t.isfinite()).sum()) for t in constants),
    }


def _attest_head(layers: Layers, head: Any) -> str | None:
    """How the output head is quantised, else its dtype."""
    if head is None or is_foreign(head):
        return None
    kinds = [layer.kind for name, layer in layers.packed.items() if layers.linear[name] is head]
    return kinds[0] if kinds else dtype_name(head.weight)


def _list_packed(layers: Layers) -> set[int]:
    """Quantised weights and their constants, which a layer may hold as parameters, too."""
    return {id(t) for layer in layers.packed.values() for t in (*layer.packed, *layer.constants)}


def _is_packed(parameter: Any, packed: set[int]) -> bool:
    return id(parameter) in packed or is_whole(parameter)


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
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": bool(torch.backends.cudnn.allow_tf32),
        "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE"),
    }
