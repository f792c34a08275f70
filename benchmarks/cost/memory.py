"""What the harness's memory readings say of allocations whose size is known."""

from __future__ import annotations

from cost.known_allocation import read_known_allocation
from cost.row import Cost
from harness.run.process import call_in_worker

MIB = 1 << 20
TARGET = 0.02
# Not of this process alone: whatever else uses the GPU counts too.
_SHARED = "device_used"


def measure_memory(device: str, rounds: int) -> list[Cost]:
    """256 MiB on a CPU, 1 GiB on CUDA; every way of reading it, each time in a fresh process."""
    size = (256 if device == "cpu" else 1024) * MIB
    found = [call_in_worker(read_known_allocation, device, size) for _ in range(rounds)]
    costs = []
    for name in [name for name in found[0] if name != "allocated"]:
        read = [reading[name] for reading in found if reading[name] is not None]
        if read:  # what this kind of device has no such reading of is not shown
            allocated = (float(size),) * len(read)
            target = None if name == _SHARED else TARGET
            what = f"memory: {name.replace('_', ' ')}"
            costs.append(Cost(what, "allocated", "bytes", allocated, tuple(read), "error", target))
    if not costs:
        raise SystemExit(f"memory: nothing can be read on {device} of this machine")
    return costs
