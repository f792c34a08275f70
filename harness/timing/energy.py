"""The GPU's energy counter. Runs in the worker, around what is measured."""

from __future__ import annotations

from harness.machine.nvml import ask_board, find_uuid


def read_energy_j(device: str) -> float | None:
    """Joules the GPU has used since its driver was loaded; None where there is no counter.

    NVML's counter, which boards since Volta have.
    """
    uuid = find_uuid(device)
    return None if uuid is None else read_board_energy_j(uuid)


def read_board_energy_j(uuid: str) -> float | None:
    """The same for the board of this UUID; None where NVML is missing or does not tell."""
    millijoules = ask_board(uuid, "nvmlDeviceGetTotalEnergyConsumption")
    return None if millijoules is None else millijoules / 1000
