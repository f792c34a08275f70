"""Which libraries and kernels compute a loaded model, as far as they can be asked.

Of products states the kernels registered, not the one that a call picks: CUDA's libraries choose by
the size of a product. Of attention states what small passes ran.
"""

from typing import Any

import torch

from harness.engines.shared.attention_kernels import KernelWatch
from harness.engines.transformers.layers import Layers

# Kinds of passes by their tokens: they differ in mask, and so may differ in kernel.
_PASSES = {"prompt": 8, "continued": 4, "step": 1}


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
    """torch's kernel for a prompt, for more tokens behind its cache and for a single one.

    None in place of a kernel: the model's attention is not torch's. None altogether: a pass failed,
    which the first measurement will tell.
    """
    found: dict[str, str | None] = {}
    cache = None
    try:
        with torch.inference_mode(), KernelWatch() as watch:
            for kind, length in _PASSES.items():
                ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
                output = model(input_ids=ids, past_key_values=cache, use_cache=True)
                found[kind] = watch.take()
                cache = getattr(output, "past_key_values", None)
                if cache is None:
                    break
    except Exception:
        return None
    return found
