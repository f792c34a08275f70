"""What the fork server imports once, so that each cell's process starts in milliseconds.

Nothing here may initialise CUDA or start a thread: neither survives a fork. bitsandbytes asks for
the GPU when it is imported, so where there may be one only what it imports is taken, most of the
work. datasets (whose Arrow starts a thread) is left to the cells.
"""

import contextlib
import ctypes
import gc
import logging
import os

gc.disable()  # else a fifth of the time goes into looking for garbage that imports do not leave

import torch  # noqa: E402
import transformers.modeling_utils  # noqa: E402, F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402, F401

import harness.engines.transformers.loading  # noqa: E402, F401


def _warm_transformers() -> None:
    """The most common architecture, and the table of renamed weights that every load asks for."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.models.llama import modeling_llama  # noqa: F401

    get_checkpoint_conversion_mapping("llama")


def _import_compiler() -> None:
    """What `torch.compile` imports when it decorates; bitsandbytes decorates its kernels."""
    before = os.environ.get("TORCH_WARM_POOL")
    os.environ["TORCH_WARM_POOL"] = "0"  # torch 2.6 starts compiler processes with this import
    try:
        import torch._inductor.compile_fx  # noqa: F401
    finally:
        del os.environ["TORCH_WARM_POOL"]
        if before is not None:
            os.environ["TORCH_WARM_POOL"] = before


def _import_bitsandbytes() -> None:
    if not _may_have_gpu():
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # this is the user's terminal
        import bitsandbytes  # noqa: F401


def _may_have_gpu() -> bool:
    """Whether a GPU's driver is there; without NVML torch would initialise CUDA to answer."""
    if getattr(torch.version, "hip", None) or getattr(torch.version, "xpu", None):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


for _preload in (_warm_transformers, _import_compiler, _import_bitsandbytes):
    with contextlib.suppress(Exception):  # the cell that needs it says what is wrong with it
        _preload()

# What is imported stays: a cell that collects garbage need not look through it (0.25 s each time),
# nor copy its pages.
gc.freeze()
gc.enable()
