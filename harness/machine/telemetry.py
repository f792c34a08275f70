"""What the machine did while a cell was measured: clocks, power, temperature, who else was there.

Sampled ten times a second in the harness's own process, so that it costs the cell's process
nothing; NVML makes no CUDA context. Kept as summaries, and judged by `judge_telemetry`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import psutil

from harness.records.record import Validity

INTERVAL_S = 0.1
_FREQUENCY_EVERY = 10  # reading every core's clock is slow where there are hundreds
_MAY_CONTEND = 0.1  # of the cores that a cell computes on
# nvml.h, nvmlClocksEventReason*: what each bit of the mask says.
_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
_SLOWDOWNS = tuple(reason for reason in _REASONS.values() if reason != "software power cap")


class Telemetry:
    """Samples from `start` to `stop`, which returns the summary.

    ``worker`` is the process that computes, ``gpu_uuid`` its GPU's (None on a CPU), ``threads`` how
    many it computes with.
    """

    def __init__(self, worker: int | None, gpu_uuid: str | None, threads: int | None) -> None:
        self._own = {pid for pid in (worker, os.getpid()) if pid is not None}
        self._threads = threads
        self._cpu = _CpuWatch(self._own)
        self._gpu = _GpuWatch(gpu_uuid, self._own) if gpu_uuid is not None else None
        self._taken: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def start(self) -> Telemetry:
        """Begin to sample."""
        self._thread.start()
        return self

    def stop(self) -> dict[str, Any]:
        """End and summarise: ``samples``, the real ``interval_s``, ``cpu`` and perhaps ``gpu``."""
        self._end.set()
        self._thread.join()
        taken = self._taken
        found: dict[str, Any] = {
            "samples": len(taken),
            "interval_s": (taken[-1] - taken[0]) / (len(taken) - 1) if len(taken) > 1 else None,
            "cpu": {"threads": self._threads, **self._cpu.summarise()},
        }
        if self._gpu is not None:
            found["gpu"] = self._gpu.summarise()
        return found

    def _sample(self) -> None:
        due = time.monotonic()
        while True:
            self._taken.append(time.monotonic())
            if self._gpu is not None:
                self._gpu.sample()
            if len(self._taken) % _FREQUENCY_EVERY == 1:
                self._cpu.sample()
            due = max(due + INTERVAL_S, time.monotonic())
            if self._end.wait(due - time.monotonic()):
                return


def judge_telemetry(summary: dict[str, Any]) -> Validity:
    """Whether what was measured meanwhile may be trusted.

    Invalid: the GPU was slowed down by heat or hardware, or another process used it. Flagged: its
    power was capped, or other processes wanted the cores that the cell computed on.
    """
    gpu, cpu = summary.get("gpu", {}), summary.get("cpu", {})
    reasons = gpu.get("throttled") or {}
    broken = [
        f"the GPU was throttled: {reason} in {reasons[reason]:.0%} of the samples"
        for reason in _SLOWDOWNS
        if reasons.get(reason)
    ]
    others = gpu.get("other_processes")
    if others:
        broken.append(f"{others} other process{'es' * (others > 1)} used the GPU")
    if broken:
        return Validity(status="invalid", reasons=tuple(broken))
    odd = []
    capped = reasons.get("software power cap")
    if capped:
        limit = gpu.get("power_limit_w")
        at = f" at {limit:g} W" if limit else ""
        odd.append(f"the GPU's power was capped{at} in {capped:.0%} of the samples")
    taken, cores, threads = cpu.get("other_cores"), cpu.get("cores"), cpu.get("threads")
    # On a GPU one thread launches kernels.
    threads = 1 if "gpu" in summary else threads
    if None not in (taken, cores, threads) and taken - (cores - threads) > _MAY_CONTEND * threads:
        odd.append(f"other processes used {taken:.1f} of {cores} cores")
    return Validity(status="flagged" if odd else "ok", reasons=tuple(odd))


class _CpuWatch:
    """Load, clocks, and how many cores others used than the processes ``own``."""

    def __init__(self, own: set[int]) -> None:
        self._own = own
        self._start = time.monotonic()
        self._busy, self._ours = _busy_s(), _used_s(own)
        self._mhz: list[float] = []

    def sample(self) -> None:
        try:
            frequency = psutil.cpu_freq()
        except (OSError, RuntimeError, NotImplementedError):
            return
        current = getattr(frequency, "current", None)  # there may be no frequency at all
        if current:
            self._mhz.append(current)

    def summarise(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._start
        ours, busy = _used_s(self._own), _busy_s()
        others = None
        if ours is not None and self._ours is not None and seconds > 0:
            others = max(0.0, (busy - self._busy) - (ours - self._ours)) / seconds
        return {
            "cores": psutil.cpu_count(),
            "other_cores": others,
            "load_average": [round(load, 2) for load in psutil.getloadavg()],
            "mhz": _spread(self._mhz),
        }


class _GpuWatch:
    """One board's clocks, power, temperature, throttling and processes, by NVML."""

    def __init__(self, uuid: str, own: set[int]) -> None:
        self._own = own
        self._series: dict[str, list[float]] = {}
        self._throttled: Counter[str] = Counter()
        self._masks = 0
        self._others: list[int] = []
        self._nvml: Any = None
        self._unavailable = ""
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._nvml = pynvml
        except Exception as error:  # not installed, no driver, not permitted: each its own class
            self._unavailable = str(error) or type(error).__name__

    def sample(self) -> None:
        nvml = self._nvml
        if nvml is None:
            return
        for name, value in (
            ("sm_mhz", self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)),
            ("memory_mhz", self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)),
            ("power_w", self._ask("nvmlDeviceGetPowerUsage")),
            ("temperature_c", self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)),
        ):
            if value is not None:
                scale = 1000 if name == "power_w" else 1  # NVML tells milliwatts
                self._series.setdefault(name, []).append(value / scale)
        mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if mask is not None:
            self._masks += 1
            self._throttled.update(reason for bit, reason in _REASONS.items() if mask & bit)
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if processes:
            self._others.append(_count_others([p.pid for p in processes], self._own))

    def summarise(self) -> dict[str, Any]:
        if self._nvml is None:
            return {"unavailable": self._unavailable}
        limit = self._ask("nvmlDeviceGetPowerManagementLimit")
        self._nvml.nvmlShutdown()
        throttled = {reason: n / self._masks for reason, n in sorted(self._throttled.items())}
        return {
            **{name: _spread(values) for name, values in self._series.items()},
            "power_limit_w": limit / 1000 if limit else None,
            "throttled": throttled if self._masks else None,
            # Where no process is listed although this one computes, the list is not to be had.
            "other_processes": max(self._others, default=None),
        }

    def _ask(self, name: str, *arguments: Any) -> Any:
        """One fact; None where this board or this user does not get it."""
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


def _count_others(pids: Sequence[int], own: set[int]) -> int:
    """Processes on the GPU besides ours.

    In a container pids may be those of another namespace, where ours has a number that is not
    known here: then one of them is taken to be it.
    """
    listed = own & set(pids)
    return len(set(pids)) - max(1, len(listed))


def _busy_s() -> float:
    """Seconds that all cores of the machine have been busy; time stolen from a guest counts."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Guests' time is part of user's and nice's.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)


def _used_s(pids: set[int]) -> float | None:
    """Processor seconds that these processes have used; None where one has ended."""
    try:
        used = [psutil.Process(pid).cpu_times() for pid in pids]
    except psutil.Error:
        return None
    return float(sum(times.user + times.system for times in used))


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": median(values), "max": max(values)}
