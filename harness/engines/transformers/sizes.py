"""What a model will take, by its config alone: an empty model is made, and no weight is read.

Weights are counted exactly, as the footprint metric finds them after loading. What reading a prompt
takes is an estimate.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from harness.catalog import load_precision
from harness.engines.transformers.forward import keeps_logits
from harness.engines.transformers.kv_cache import (
    find_max_context,
    find_size,
    kv_bytes_per_token,
)
from harness.engines.transformers.layers import matches
from harness.engines.transformers.work import attention_curve
from harness.errors import InputError
from harness.machine.capacity import Growth, Sizes
from harness.suite.model_sources import CellJob
from harness.suite.models import Architecture


def size_up(job: CellJob) -> Sizes:
    """The sizes of one cell; raises `InputError` for a config that transformers cannot use."""
    precision = load_precision(job.precision.use)
    arguments = precision.load_arguments(job.precision.options, job.target)
    dtype = str(arguments["dtype"]).removeprefix("torch.")
    try:
        model = make_empty(job, job.files.folder, dtype)
    except Exception as error:  # each model's config class checks its fields in its own way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{job.model.name}: no model can be made of its config: {reason}"
        ) from error
    quantised, constants, unquantised, unpacked = weigh(
        model, job.precision.use, job.precision.options
    )
    text = model.config.get_text_config(decoder=True)
    kv = kv_bytes_per_token(model.config, model.dtype.itemsize)
    return Sizes(
        parameters=count_parameters(model),
        dtype=dtype,
        quantised=quantised,
        constants=constants,
        unquantised=unquantised,
        buffers=_sum_bytes(model.buffers()),
        unpacked=unpacked,
        kv_per_token=kv,
        growth=None if kv is None else _estimate_growth(model, text, kv, unpacked),
        max_context=find_max_context(model.config),
    )


def make_empty(job: CellJob, folder: str | None, dtype: str) -> Any:
    """The model of a cell without storage for its weights; raises what transformers raises.

    ``folder`` holds its config, None for an architecture.
    """
    trust = {"trust_remote_code": job.model.trust_remote_code}
    if folder:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **trust)
    else:
        assert isinstance(job.model.source, Architecture)
        fields = job.model.source.model_dump()
        config = AutoConfig.for_model(fields.pop("architecture"), **fields)
    attention = {"attn_implementation": job.model.attention} if job.model.attention else {}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), **trust, **attention
        )


def weigh(model: Any, precision: str, options: Any) -> tuple[int, int, int, int]:
    """The bytes that an unquantised ``model`` takes once it is loaded as ``precision``.

    Packed weights, their constants, weights kept as floats; and the largest packed matrix as it
    would be in floats.
    """
    matrix_bytes = load_precision(precision).matrix_bytes
    packed = constants = unpacked = 0
    converted = set()
    if matrix_bytes is not None:
        for layer in _list_convertible(model):
            weight = layer.weight
            shape = weight.shape[::-1] if isinstance(layer, Conv1D) else weight.shape
            own = matrix_bytes(options, *shape)
            packed, constants = packed + own[0], constants + own[1]
            unpacked = max(unpacked, weight.numel() * weight.element_size())
            converted.add(id(weight))
    rest = (p for p in model.parameters() if id(p) not in converted)
    return packed, constants, _sum_bytes(rest), unpacked


def count_parameters(model: Any) -> Mapping[str, int]:
    """The number of parameters by kind, tied ones once, under the first kind that has them."""
    head = model.get_output_embeddings()
    kinds = ("embedding", "linear layers", "other matrices", "output head", "norms and biases")
    found = dict.fromkeys(kinds, 0)
    seen: set[int] = set()
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if id(p) in seen:
                continue
            seen.add(id(p))
            if p.dim() < 2:
                kind = "norms and biases"
            elif isinstance(module, nn.Embedding):
                kind = "embedding"
            elif module is head:
                kind = "output head"
            else:
                kind = "linear layers" if isinstance(module, (nn.Linear, Conv1D)) else kinds[2]
            found[kind] += p.numel()
    return {kind: count for kind, count in found.items() if count}


def _list_convertible(model: Any) -> list[Any]:
    """The layers that quantisers convert: all linear ones but the head and what is tied to it.

    As transformers' own decide (`quantizers/base.py`, ``get_keys_to_not_convert``), which also
    leave the model's last layer, and those that an architecture keeps in float32.
    """
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    last = [name for name, _ in model.named_parameters()][-1:]
    kept = {name.removesuffix(".weight") for name in (*tied, *tied.values(), *last)}
    kept |= set(model._keep_in_fp32_modules or ())
    head = model.get_output_embeddings()
    return [
        module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D))
        and module is not head
        and not matches(name, kept)
    ]


def _estimate_growth(model: Any, text: Any, kv: int, unpacked: int) -> Growth | None:
    """Reading a prompt: its cache, the widest layer's activations, the last token's logits.

    Where a block's linear layers take most, three of their results stand beside the block's input
    and its norm (Llama's ``act(gate(x)) * up(x)``); logits are made in the model's dtype and copied
    to float32.
    """
    width = model.dtype.itemsize
    hidden = find_size(text, "hidden_size", "n_embd", "d_model")
    if hidden is None:
        return None
    inner = find_size(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    experts = find_size(text, "num_experts_per_tok") or 1
    inner = max(inner or 4 * hidden, experts * (find_size(text, "moe_intermediate_size") or 0))
    logits = model.get_input_embeddings().num_embeddings * width
    slope = kv + width * (5 * hidden + 3 * inner) + (0 if keeps_logits(model) else logits)
    each = logits * (1 + 4 / width)
    return Growth(each + unpacked, slope, attention_curve(text, width), each)


def _sum_bytes(tensors: Iterable[Any]) -> int:
    """Of distinct tensors."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
