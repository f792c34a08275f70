"""What the machine did while a cell was measured: clocks, power, temperature, other processes.

Sampled ten times a second in the harness's own process, so that it costs the cell's process
nothing; NVML makes no CUDA context. Kept as summaries.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import psutil

from harness.machine.environment import read_cpu_clock
from harness.machine.nvml import CLOCK_MEMORY, CLOCK_SM, TEMPERATURE_GPU, NvmlError, NvmlSession

INTERVAL_S = 0.1
POWER_CAP = "software power cap"
_FREQUENCY_EVERY = 10  # reading every core's clock is slow where there are hundreds
# nvml.h, nvmlClocksEventReason*: the meaning of each bit of the mask.
_REASONS = {
    0x4: POWER_CAP,
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


class Telemetry:
    """Samples from `start` to `stop`, which returns the summary.

    ``worker`` is the process that computes, ``gpu_uuid`` its GPU's (None on a CPU), ``threads`` how
    many it computes with. Whoever started this process, such as a notebook with a model on the
    same GPU, waits for it and counts as no other process there.
    """

    def __init__(self, worker: int | None, gpu_uuid: str | None, threads: int | None) -> None:
        self._own = {pid for pid in (worker, os.getpid()) if pid is not None}
        self._threads = threads
        self._before = read_cpu_times(self._own)
        self._mhz: list[float] = []
        self._gpu = (
            BoardWatch(gpu_uuid, self._own | _list_ancestors()) if gpu_uuid is not None else None
        )
        self._taken: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)

    def start(self) -> "Telemetry":
        """Begin to sample."""
        self._thread.start()
        return self

    def stop(self) -> dict[str, Any]:
        """End and summarise: ``samples``, the real ``interval_s``, ``cpu`` and perhaps ``gpu``."""
        self._end.set()
        self._thread.join()
        taken, gpu = self._taken, self._gpu
        found: dict[str, Any] = {
            "samples": len(taken),
            "interval_s": (taken[-1] - taken[0]) / (len(taken) - 1) if len(taken) > 1 else None,
            "cpu": {
                "threads": self._threads,
                "cores": psutil.cpu_count(),
                "other_cores": count_other_cores(self._before, read_cpu_times(self._own)),
                "load_average": [round(load, 2) for load in psutil.getloadavg()],
                "mhz": _spread(self._mhz),
            },
        }
        return found if gpu is None else {**found, "gpu": gpu.stop()}

    def _sample(self) -> None:
        due = time.monotonic()
        while True:
            self._taken.append(time.monotonic())
            if self._gpu is not None:
                self._gpu.sample()
            if len(self._taken) % _FREQUENCY_EVERY == 1:
                clock = read_cpu_clock()
                self._mhz += [clock.current] if clock and clock.current else []
            due = max(due + INTERVAL_S, time.monotonic())
            if self._end.wait(due - time.monotonic()):
                return


def _list_ancestors() -> set[int]:
    with suppress(psutil.Error):
        return {process.pid for process in psutil.Process().parents()}
    return set()


@dataclass(frozen=True)
class CpuTimes:
    """At second ``at`` of a clock: core seconds used by everyone, and by the processes watched."""

    at: float
    busy_s: float
    own_s: float | None


def read_cpu_times(pids: set[int]) -> CpuTimes:
    """Processor time of the machine and of ``pids``; ``own_s`` is None where one has ended.

    Time stolen from a guest counts as busy.
    """
    times = psutil.cpu_times()
    # Guests' time is part of user's and nice's.
    idle = sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
    own: float | None = None
    with suppress(psutil.Error):
        used = [psutil.Process(pid).cpu_times() for pid in pids]
        own = float(sum(each.user + each.system for each in used))
    return CpuTimes(time.monotonic(), float(sum(times) - idle), own)


def count_other_cores(before: CpuTimes, after: CpuTimes) -> float | None:
    """How many cores' worth of time other processes used in between; None where unknown."""
    seconds = after.at - before.at
    if before.own_s is None or after.own_s is None or seconds <= 0:
        return None
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return max(0.0, others_s) / seconds


class BoardWatch:
    """One board's clocks, power, temperature, throttling and processes, by NVML.

    ``own`` are the process ids that belong to the measurement.
    """

    def __init__(self, uuid: str, own: set[int]) -> None:
        self._own = own
        self._series: defaultdict[str, list[float]] = defaultdict(list)
        self._session = ExitStack()
        self._unavailable = ""
        try:
            self._ask = self._session.enter_context(NvmlSession()).find_board(uuid)
        except NvmlError as error:
            self._unavailable = str(error)

    def sample(self) -> None:
        """Read everything once."""
        if self._unavailable:
            return
        ask = self._ask
        power_mw = ask("nvmlDeviceGetPowerUsage")
        pids = {process.pid for process in ask("nvmlDeviceGetComputeRunningProcesses") or ()}
        readings = {
            "sm_mhz": ask("nvmlDeviceGetClockInfo", CLOCK_SM),
            "memory_mhz": ask("nvmlDeviceGetClockInfo", CLOCK_MEMORY),
            "power_w": None if power_mw is None else power_mw / 1000,
            "temperature_c": ask("nvmlDeviceGetTemperature", TEMPERATURE_GPU),
            "mask": ask("nvmlDeviceGetCurrentClocksThrottleReasons"),
            # An empty list, although our process computes, means that it is not available. In a
            # container the ids may be another namespace's: then one of them is taken to be ours.
            "others": len(pids) - max(1, len(self._own & pids)) if pids else None,
        }
        for name, value in readings.items():
            if value is not None:
                self._series[name].append(value)

    def stop(self) -> dict[str, Any]:
        """Close the session and summarise; ``{unavailable: reason}`` where nothing was read."""
        with self._session:
            if self._unavailable:
                return {"unavailable": self._unavailable}
            limit_mw = self._ask("nvmlDeviceGetPowerManagementLimit")
        masks, others = self._series.pop("mask", []), self._series.pop("others", [])
        throttled = {
            reason: fmean(bool(int(mask) & bit) for mask in masks)
            for bit, reason in _REASONS.items()
            if any(int(mask) & bit for mask in masks)
        }
        return {
            **{name: _spread(values) for name, values in self._series.items()},
            "power_limit_w": limit_mw / 1000 if limit_mw else None,
            "throttled": throttled if masks else None,
            "other_processes": int(max(others)) if others else None,
        }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": median(values), "max": max(values)}
