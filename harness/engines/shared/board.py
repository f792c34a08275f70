"""The GPU board behind a CUDA device, and its energy counter."""

import torch

from harness.machine.nvml import ask_board


def find_uuid(device: str) -> str | None:
    """The UUID by which NVML finds a CUDA device; None on a CPU. Has torch start CUDA."""
    if not device.startswith("cuda"):
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def read_energy_j(device: str) -> float | None:
    """Joules the GPU has used since its driver was loaded (boards since Volta count them).

    None on a CPU, and where NVML is missing or refuses.
    """
    uuid = find_uuid(device)
    millijoules = ask_board(uuid, "nvmlDeviceGetTotalEnergyConsumption") if uuid else None
    return None if millijoules is None else millijoules / 1000
