"""Allocate a known size and read it back: how right the harness's figures of memory are."""

from __future__ import annotations

import torch

from harness.engines.shared.meter import MemoryMeter


def read_known_allocation(device: str, size: int) -> dict[str, int | None]:
    """Hold ``size`` bytes on ``device``, written to, and read them in every way a meter has.

    Bytes: ``allocated`` (``size``), ``held`` and ``peak`` (what is judged), ``anonymous`` (CPU),
    ``reserved`` and ``device_used`` (CUDA); None where unavailable. ``device_used`` needs a process
    that has not used CUDA yet.
    """
    meter = MemoryMeter(device)
    torch.ones(1, device=device)  # what a process's first allocation brings along
    meter.start_phase()
    before = _read(meter)
    block = torch.ones(size, dtype=torch.uint8, device=device)
    after = _read(meter)
    del block
    grown = {
        name: None if now is None or then is None else now - then
        for (name, now), then in zip(after.items(), before.values(), strict=True)
    }
    return {"allocated": size, **grown}


def _read(meter: MemoryMeter) -> dict[str, int | None]:
    return {
        "peak": meter.peak_bytes(),  # first: it waits for the device
        "held": meter.current_bytes(),
        "anonymous": meter.anonymous_bytes(),
        "reserved": meter.reserved_peak_bytes(),
        "device_used": meter.device_used_bytes(),
    }
