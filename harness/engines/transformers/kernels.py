"""Which libraries and kernels compute a loaded model, as far as they can be asked.

Of products states the kernels registered, not the one that a call picks: CUDA's libraries choose by
the size of a product. Of attention states what small passes ran, masked as texts and answers are.
"""

from typing import Any

import torch

from harness.engines.shared.attention_kernels import KernelWatch
from harness.engines.transformers.layers import Layers
from harness.engines.transformers.prefix_cache import can_pack, can_share


def describe_kernels(model: Any, layers: Layers) -> dict[str, Any]:
    """``matmul``: torch's library for products.

    For a quantised model also the library of its layers by name, and in ``products`` the kernel for
    the products of each kind of layer.
    """
    device = model.device.type
    found: dict[str, Any] = {"torch": str(torch.__version__)}  # a class of torch's own otherwise
    if device == "cuda":
        blas = str(torch.backends.cuda.preferred_blas_library()).rpartition(".")[2]
        found["matmul"] = f"CUDA {torch.version.cuda}, {blas}"
    else:
        found["matmul"] = f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    products: dict[str, str] = {}
    for reader in dict.fromkeys(layers.readers.values()):
        own: dict[str, list[Any]] = {}
        for name, layer in layers.packed.items():
            if layers.readers[name] == reader:
                own.setdefault(layer.kind, []).append(layers.linear[name])
        found[reader.library] = reader.describe_library()
        products |= {kind: reader.describe_products(kind, own[kind], device) for kind in own}
    if products:
        found["products"] = products
    return found


def watch_attention(model: Any) -> dict[str, str | None] | None:
    """torch's kernel of each kind of pass: they differ in mask, and so may differ in kernel.

    ``prompt``: a text or prompt without a mask of ours; ``continued`` and ``step``: more tokens
    behind its cache, and a single one; ``packed``: prompts that share a beginning; ``padded`` and
    ``padded step``: prompts of several lengths, and a token of each. None in place of a kernel: the
    model's attention is not torch's. Kinds are missing from the first pass on that failed, which a
    measurement will tell; None altogether: all failed.
    """
    found: dict[str, str | None] = {}
    ids = torch.zeros(2, 8, dtype=torch.long, device=model.device)
    mask = torch.ones(2, 9, dtype=torch.long, device=model.device)
    mask[0, :2] = 0

    def run(kind: str, ids: torch.Tensor, cache: Any = None, **given: torch.Tensor) -> Any:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, **given)
        found[kind] = watch.take()
        return getattr(output, "past_key_values", None)

    try:
        with torch.inference_mode(), KernelWatch() as watch:
            cache = run("prompt", ids[:1])
            if cache is None:
                return found
            cache = run("continued", ids[:1, :4], cache)
            run("step", ids[:1, :1], cache)
            if can_share(model) and can_pack(model):
                run("packed", ids[:1], **_branch(ids.shape[1], model))
            cache = run("padded", ids, attention_mask=mask[:, :-1])
            run("padded step", ids[:, :1], cache, attention_mask=mask)
    except Exception:
        return found or None
    return found


def _branch(length: int, model: Any) -> dict[str, torch.Tensor]:
    """The arguments of ``length`` tokens whose second half does not see the second quarter."""
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    seen[length // 2 :, length // 4 : length // 2] = False
    mask = torch.zeros(seen.shape, dtype=model.dtype)
    mask = mask.masked_fill(~seen, torch.finfo(model.dtype).min)[None, None]
    positions = seen.sum(-1)[None] - 1
    return {"attention_mask": mask.to(model.device), "position_ids": positions.to(model.device)}
