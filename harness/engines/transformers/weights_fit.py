"""Whether a model's weights fit the free memory, before any of them is read."""

from math import prod
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from harness.catalog import load_precision
from harness.engines.shared.available_memory import format_gb, free_bytes
from harness.engines.transformers.checkpoint import Checkpoint
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


def _count_needed(job: CellJob, folder: str, dtype: str) -> float | None:
    """Bytes of the weights that the model will hold, by an empty one; None where that fails.

    A checkpoint may hold more than is loaded, such as a second head or one that is tied.
    """
    trust = job.model.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, dtype), trust_remote_code=trust
            )
    except Exception:  # loading it will say what is wrong
        return None
    return count_weight_bytes(model, job.precision.use, job.precision.options)


def count_weight_bytes(model: Any, precision: str, options: Any) -> float:
    """The bytes that an unquantised ``model`` takes once it is loaded as ``precision``.

    At least: counts every matrix between the embedding and the head as quantised.
    """
    bits_per_weight = load_precision(precision).bits_per_weight
    head = model.get_output_embeddings()
    sizes: dict[int, float] = {}
    for module in model.modules():
        stays = bits_per_weight is None or module is head or isinstance(module, nn.Embedding)
        for p in module.parameters(recurse=False):
            if stays or p.dim() < 2:
                sizes[id(p)] = p.numel() * p.element_size()
            else:
                sizes[id(p)] = p.numel() * bits_per_weight(options) / 8  # type: ignore[misc]
    return sum(sizes.values())
