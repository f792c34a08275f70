"""Load and read bitsandbytes' layers, for int8, nf4 and fp4.

Layers are read by their attributes, without importing bitsandbytes.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from harness.descriptions import Device, LayerReader, PackedLayer

ComputeDtype = Literal["float32", "bfloat16", "float16"]
_OPERATORS = {"nf4": "gemm_4bit", "fp4": "gemm_4bit", "int8": "int8_linear_matmul"}
# Of products with normally distributed weights; a few times what these formats cost.
_LARGEST_ERROR = {"int8": 0.05, "nf4": 0.3, "fp4": 0.4}
_REPACKED = "AVX512-BF16 gemm on repacked weights"


def choose_dtype(declared: ComputeDtype | None, device: Device) -> ComputeDtype:
    """The dtype of everything unquantised, and of the products where there is a choice."""
    if declared is not None or device.type != "cuda":
        return declared or "float32"
    return "float16" if device.lacks_bfloat16 else "bfloat16"


def quantise_while_loading(dtype: str, **config: Any) -> dict[str, Any]:
    """``from_pretrained`` keywords; ``config`` are the fields of `BitsAndBytesConfig`."""
    from transformers import BitsAndBytesConfig

    _silence()
    return {"dtype": dtype, "quantization_config": BitsAndBytesConfig(**config)}


def read_layer(layer: Any) -> PackedLayer | None:
    """A quantised `Linear8bitLt` or `Linear4bit`; None for any other layer."""
    name, state = type(layer).__name__, getattr(getattr(layer, "weight", None), "quant_state", None)
    settings: dict[str, Any]
    if name == "Linear8bitLt" and str(layer.weight.dtype) == "torch.int8":
        kind, shape = "int8", layer.weight.shape
        settings = {
            "quant_storage": "int8",
            "input_dtype": find_input_dtype(layer.weight.device.type),
            "product_dtype": "int8",
            "result_dtype": find_result_dtype(layer.weight.device.type),
            "block_size": "row",
            "threshold": float(layer.state.threshold),
        }
    elif name == "Linear4bit" and state is not None:
        kind, shape = str(state.quant_type), state.shape
        settings = {
            "quant_storage": str(layer.weight.dtype).removeprefix("torch."),
            "double_quant": bool(state.nested),
            "block_size": int(state.blocksize),
            "nested_block_size": int(state.state2.blocksize) if state.nested else None,
            "compute_dtype": str(layer.compute_dtype).removeprefix("torch."),
        }
    else:
        return None
    constants = tuple(_find_constants(layer))
    return PackedLayer(kind, tuple(shape), (layer.weight,), constants, settings)


@cache
def find_input_dtype(device: str) -> str:
    """To which dtype an int8 layer on ``device`` casts its input before it quantises it.

    Tried, not read: a real layer is given 10**5, which is past float16 while its product, 100, is
    not. 0.50 casts to float16 on every device (`autograd/_functions.py`, ``MatMul8bitLt``).
    """
    import torch
    from bitsandbytes.nn import Linear8bitLt

    try:
        layer = Linear8bitLt(32, 8, bias=False, has_fp16_weights=False, threshold=0.0)
        torch.nn.init.constant_(layer.weight, 1e-3)
        given = torch.zeros(8, 32, device=device)
        given[:, 0] = 1e5
        with torch.inference_mode():
            result = layer.eval().to(device)(given)  # one that trains casts nothing on a CPU
    except (AttributeError, RuntimeError, TypeError):  # another version's layer, no int8 here
        return "unknown"
    return "float32" if bool(result.isfinite().all()) else "float16"


@cache
def find_result_dtype(device: str) -> str:
    """Through which dtype int8 products pass on ``device``, whatever their output's dtype is.

    Tried, not read: 0.50's CUDA kernel gives float16, which the output is cast from (`cuda/ops.py`,
    ``int8_mm_dequant``), its CPU code float32. 32 x 10**10 is past float16 and not past float32.
    """
    import torch

    ones = torch.ones(8, 32, dtype=torch.int8, device=device)
    scales = torch.full((8,), 127e5, device=device)
    try:
        multiply = torch.ops.bitsandbytes.int8_scaled_mm.default
        result = multiply(ones, ones, scales, scales, dtype=torch.float32)
    except (AttributeError, RuntimeError):  # another version's operator, a board without int8
        return "unknown"
    return "float32" if bool(result.isfinite().all()) else "float16"


def _find_constants(layer: Any) -> Iterator[Any]:
    """Every tensor that a quantised layer needs to be read, next to its packed weight."""
    places = [getattr(layer.weight, "quant_state", None), getattr(layer, "state", None)]
    while places:
        state = places.pop()
        if state is None:
            continue
        places.append(getattr(state, "state2", None))
        found = (getattr(state, name, None) for name in ("absmax", "code", "offset", "SCB"))
        yield from (tensor for tensor in found if hasattr(tensor, "untyped_storage"))
    if hasattr(getattr(layer.weight, "SCB", None), "untyped_storage"):
        yield layer.weight.SCB


def describe_library() -> dict[str, Any]:
    """Its version and the native library it has loaded, None where it runs on torch alone."""
    import bitsandbytes
    from bitsandbytes import cextension

    library = getattr(getattr(cextension.lib, "_lib", None), "_name", None)
    return {
        "version": bitsandbytes.__version__,
        "native_library": Path(library).name if isinstance(library, str) else None,
    }


def describe_products(kind: str, layers: Sequence[Any], device: str) -> str:
    """Which operator, and which kernel behind it, multiplies by the weights of ``layers``."""
    import torch

    dispatcher, operator, key = torch._C, _OPERATORS[kind], device.upper()
    if not dispatcher._dispatch_has_kernel(f"bitsandbytes::{operator}"):
        return "unknown"  # another version's operator
    repacked = [la for la in layers if getattr(la, "support_avx512bf16_for_cpu", False)]
    if kind != "int8" and device == "cpu" and repacked:
        return _REPACKED if len(repacked) == len(layers) else f"{_REPACKED}, of some layers"
    if dispatcher._dispatch_has_kernel_for_dispatch_key(f"bitsandbytes::{operator}", key):
        return f"{operator}, {key} kernel"
    how = "float32 product of the integers" if kind == "int8" else "dequantise, then torch matmul"
    return f"{operator}, torch only: {how}"


def warm_up(device: str) -> None:
    """On CUDA, have it make the code book that it keeps; on a CPU the rehearsal does so."""
    if device.startswith("cuda"):
        import torch
        from bitsandbytes import functional

        functional.quantize_blockwise(torch.zeros(256, device=device))


def try_out(device: str) -> str:
    """Tiny layers of each kind, and the relative error of their products."""
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    _silence()
    generator = torch.Generator().manual_seed(0)
    weight, given = (torch.randn(n, 128, generator=generator) for n in (64, 16))
    expected = given @ weight.T
    made = {
        "int8": Linear8bitLt(128, 64, bias=False, has_fp16_weights=False, threshold=6.0),
        **{k: Linear4bit(128, 64, bias=False, quant_type=k) for k in ("nf4", "fp4")},
    }
    errors = []
    for kind, layer in made.items():
        layer.load_state_dict({"weight": weight})
        with torch.inference_mode():
            found = layer.eval().to(device)(given.to(device)).float().cpu()
        error = float((found - expected).norm() / expected.norm())
        if not error < _LARGEST_ERROR[kind]:
            raise RuntimeError(f"products of {kind} are {error:.0%} off")
        errors.append(f"{kind} {error:.1%}")
    about = describe_library()
    library = about["native_library"] or "torch only"
    return f"{about['version']}, {library}; products on {device} off by {', '.join(errors)}"


def preload(has_gpu: bool) -> None:
    """Import it, unless there is a GPU, which it would initialise."""
    if not has_gpu:
        _silence()  # the fork server's terminal is the user's
        import bitsandbytes  # noqa: F401


def _silence() -> None:
    """Keep its notices, and a warning at every int8 product, out of the log."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")


LAYERS = LayerReader(
    library="bitsandbytes",
    modules=("bitsandbytes.",),
    read=read_layer,
    stored_names=(
        ".SCB",
        ".absmax",
        ".quant_map",
        ".quant_state.bitsandbytes__fp4",
        ".quant_state.bitsandbytes__nf4",
    ),
    skip_option="llm_int8_skip_modules",
    identity=("double_quant", "block_size", "nested_block_size"),
    describe_library=describe_library,
    describe_products=describe_products,
    warm_up=warm_up,
    preload=preload,
    try_out=try_out,
)
