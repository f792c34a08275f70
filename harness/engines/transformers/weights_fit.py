"""Whether a model's weights fit the free memory, before any of them is read."""

from math import prod

import psutil
import torch

from harness.engines.shared.available_memory import format_gb, free_bytes
from harness.engines.transformers.checkpoint import Checkpoint
from harness.engines.transformers.sizes import make_empty, weigh
from harness.errors import UnavailableError
from harness.suite.model_sources import CellJob


def check_weights_fit(job: CellJob, folder: str, checkpoint: Checkpoint, dtype: str) -> None:
    """Refuse a cell whose weights alone are more than the device's free memory.

    ``dtype`` is torch's name of what is not quantised. Reads headers only; raises
    `UnavailableError` with both figures. What may fit is let through: activations, caches and what
    quantising takes meanwhile are left out, and a CPU may swap.
    """
    free, width = free_bytes(job.device), getattr(torch, dtype).itemsize
    unquantised = width * sum(prod(shape) for _, shape in checkpoint.tensors.values())
    if free is None or unquantised <= free:
        return
    if job.device == "cpu":
        free += psutil.swap_memory().free
    needed = _count_needed(job, folder, dtype)
    if needed is not None and needed > free:
        raise UnavailableError(
            f"{job.model.name} as {job.precision.name} needs about {format_gb(needed)} for its "
            f"weights, {format_gb(free)} free on {job.device}"
        )


def _count_needed(job: CellJob, folder: str, dtype: str) -> int | None:
    """Bytes of the weights that the model will hold, by an empty one; None where that fails.

    A checkpoint may hold more than is loaded, such as a second head or one that is tied.
    """
    try:
        model = make_empty(job, folder, dtype)
    except Exception:  # loading it will say what is wrong
        return None
    return sum(weigh(model, job.precision.use, job.precision.options)[:3])
