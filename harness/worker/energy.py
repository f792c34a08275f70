"""The GPU's energy counter. Runs in the worker, around what is measured."""

from __future__ import annotations

from typing import Any


def read_energy_j(device: str) -> float | None:
    """Joules the GPU has used since its driver was loaded; None where there is no counter.

    NVML's counter, which boards since Volta have; the board is found by its UUID, since CUDA's
    numbering need not be NVML's.
    """
    if not device.startswith("cuda"):
        return None
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else read_board_energy_j(f"GPU-{uuid}")


def read_board_energy_j(uuid: str) -> float | None:
    """The same for the board of this UUID; None where NVML is missing or does not tell."""
    try:
        import pynvml as nvml
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        handle: Any = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
