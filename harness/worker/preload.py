"""Import once, in the fork server, what every cell needs: a cell then starts in milliseconds.

Nothing here may initialise CUDA or start a thread: neither survives a fork. datasets, whose Arrow
starts a thread, is left to the cells.
"""

import contextlib
import gc
import os

gc.disable()  # else a fifth of the time goes into looking for garbage that imports do not leave

import torch  # noqa: E402

from harness.catalog import list_readers, preload_engines  # noqa: E402
from harness.machine.nvml import has_cuda_driver  # noqa: E402


def has_gpu_driver() -> bool:
    """Whether there may be a GPU; without NVML torch would initialise CUDA to answer."""
    other = getattr(torch.version, "hip", None) or getattr(torch.version, "xpu", None)
    return bool(other) or has_cuda_driver()


def _import_compiler() -> None:
    """Imported by `torch.compile` when it decorates, as quantisation libraries do with kernels."""
    before = os.environ.get("TORCH_WARM_POOL")
    os.environ["TORCH_WARM_POOL"] = "0"  # torch 2.6 starts compiler processes with this import
    try:
        import torch._inductor.compile_fx  # noqa: F401
    finally:
        del os.environ["TORCH_WARM_POOL"]
        if before is not None:
            os.environ["TORCH_WARM_POOL"] = before


def _import_quantisers() -> None:
    for reader in list_readers():
        reader.preload(has_gpu_driver())


for _preload in (preload_engines, _import_compiler, _import_quantisers):
    with contextlib.suppress(Exception):  # the cell that needs it will report what is wrong
        _preload()

# A cell that collects garbage need not look through what is imported (0.25 s each time), nor copy
# its pages.
gc.freeze()
gc.enable()
# It kept CUDA out of this process. A cell must not inherit it: by NVML torch sees a GPU even where
# the driver is too old to use it.
os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
