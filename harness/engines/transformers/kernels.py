"""Which libraries and kernels compute a loaded model, as far as they can be asked.

States the kernels registered or switched on, not the one that a call picks: CUDA's libraries choose
by the size of a product.
"""

from typing import Any

import torch

from harness.engines.transformers.layers import Layers


def describe_kernels(model: Any, layers: Layers) -> dict[str, Any]:
    """``matmul``: torch's library for products; ``sdpa``: its backends switched on (CUDA only).

    For a quantised model also the library of its layers by name, and in ``products`` the kernel for
    the products of each kind of layer.
    """
    device = model.device.type
    found: dict[str, Any] = {"torch": str(torch.__version__)}  # a class of torch's own otherwise
    if device == "cuda":
        blas = str(torch.backends.cuda.preferred_blas_library()).rpartition(".")[2]
        found["matmul"] = f"CUDA {torch.version.cuda}, {blas}"
        backends = ("flash", "mem_efficient", "cudnn", "math")
        enabled = [b for b in backends if getattr(torch.backends.cuda, f"{b}_sdp_enabled")()]
        found["sdpa"] = enabled
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
