"""Whether what else happened on the machine spoils a timed measurement, from its telemetry."""

from __future__ import annotations

from typing import Any

from harness.machine.telemetry import POWER_CAP
from harness.records.record import Validity

_MAY_CONTEND = 0.1  # of the cores that a cell computes on


def judge_telemetry(summary: dict[str, Any]) -> Validity:
    """Whether numbers that were measured meanwhile may be trusted.

    Invalid: the GPU was slowed down by heat or hardware, or another process used it. Flagged: its
    power was capped, or other processes needed the cores that the cell computed on.
    """
    gpu, cpu = summary.get("gpu", {}), summary.get("cpu", {})
    throttled = {reason: share for reason, share in (gpu.get("throttled") or {}).items() if share}
    capped = throttled.pop(POWER_CAP, None)
    broken = [
        f"the GPU was throttled: {reason} in {share:.0%} of the samples"
        for reason, share in throttled.items()
    ]
    others = gpu.get("other_processes")
    if others:
        broken.append(f"{others} other process{'es' * (others > 1)} used the GPU")
    if broken:
        return Validity(status="invalid", reasons=tuple(broken))
    odd = []
    if capped:
        limit = gpu.get("power_limit_w")
        at = f" at {limit:g} W" if limit else ""
        odd.append(f"the GPU's power was capped{at} in {capped:.0%} of the samples")
    used, cores, threads = cpu.get("other_cores"), cpu.get("cores"), cpu.get("threads")
    # On a GPU one thread launches kernels.
    threads = 1 if "gpu" in summary else threads
    if None not in (used, cores, threads) and used - (cores - threads) > _MAY_CONTEND * threads:
        odd.append(f"other processes used {used:.1f} of {cores} cores")
    return Validity(status="flagged" if odd else "ok", reasons=tuple(odd))
