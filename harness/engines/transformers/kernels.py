"""Which libraries and kernels compute a loaded model, as far as they can be asked.

Names what is registered or switched on, not what one call picks: CUDA's libraries choose between
kernels by shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.engines.transformers.layers import layer_kind, linear_layers

_OPERATORS = {"nf4": "gemm_4bit", "fp4": "gemm_4bit", "int8": "int8_linear_matmul"}
_REPACKED = "AVX512-BF16 gemm on repacked weights"


def describe_kernels(model: Any) -> dict[str, Any]:
    """``matmul``: what torch multiplies with; ``sdpa``: its backends switched on (CUDA only).

    For a quantised model also bitsandbytes' version, the native library it has loaded (None: it
    runs on torch alone), and per kind of layer what its product is computed by.
    """
    import torch

    on_cuda = model.device.type == "cuda"
    found: dict[str, Any] = {"torch": str(torch.__version__)}  # a class of torch's own otherwise
    if on_cuda:
        found["matmul"] = f"CUDA {torch.version.cuda}, {_name_blas()}"
        found["sdpa"] = _list_sdpa_backends()
    else:
        found["matmul"] = f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    layers = [(kind, la) for _, la in linear_layers(model) if (kind := layer_kind(la)) is not None]
    if layers:
        found["bitsandbytes"] = _describe_bitsandbytes()
        key = "CUDA" if on_cuda else "CPU"
        found["products"] = {kind: _describe_products(kind, layers, key) for kind, _ in layers}
    return found


def _describe_bitsandbytes() -> dict[str, Any]:
    import bitsandbytes
    from bitsandbytes import cextension

    library = getattr(getattr(cextension.lib, "_lib", None), "_name", None)
    return {
        "version": bitsandbytes.__version__,
        "native_library": Path(library).name if isinstance(library, str) else None,
    }


def _describe_products(kind: str, layers: list[tuple[str, Any]], key: str) -> str:
    """What the quantised layers of one kind call for their matrix product."""
    import torch

    own = [layer for other, layer in layers if other == kind]
    repacked = [la for la in own if getattr(la, "support_avx512bf16_for_cpu", False)]
    dispatcher = torch._C
    operator = _OPERATORS[kind]
    if not dispatcher._dispatch_has_kernel(f"bitsandbytes::{operator}"):
        return "unknown"  # another version's operator
    native = dispatcher._dispatch_has_kernel_for_dispatch_key(f"bitsandbytes::{operator}", key)
    if kind != "int8" and key == "CPU" and repacked:
        return _REPACKED if len(repacked) == len(own) else f"{_REPACKED}, of some layers"
    if native:
        return f"{operator}, {key} kernel"
    how = "float32 product of the integers" if kind == "int8" else "dequantise, then torch matmul"
    return f"{operator}, torch only: {how}"


def _list_sdpa_backends() -> list[str]:
    import torch

    names = ("flash", "mem_efficient", "cudnn", "math")
    return [name for name in names if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()]


def _name_blas() -> str:
    import torch

    return str(torch.backends.cuda.preferred_blas_library()).rpartition(".")[2]
