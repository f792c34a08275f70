"""Run one process from start to end: its seconds, and the memory of it and its children."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from peer.memory import read_bytes, read_own_bytes

BENCHMARKS = Path(__file__).resolve().parent.parent
_POLL_S = 0.02
_POLLS_PER_OWN = 10  # walking a process's pages takes milliseconds


@dataclass(frozen=True)
class Ran:
    """``peak_bytes``: the largest process's mark, and what those beside it had to themselves.

    So a page that several of them share counts once; ``largest_bytes`` is the one process's alone.
    """

    seconds: float
    peak_bytes: int
    largest_bytes: int


def run(command: Sequence[str], folder: Path, threads: int) -> Ran:
    """Run to the end, in ``folder`` with caches of its own; raises SystemExit where it fails.

    Peaks are the kernel's high-water marks, read until the process ends: what is polled is a
    mark that stays, so nothing between two readings is missed but the last few milliseconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.txt"
    with log.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=_make_env(folder, threads), stdout=output, stderr=output
        )
        peak = largest = polls = 0
        own: dict[int, int] = {}
        while process.poll() is None:
            marks = {pid: read_bytes("VmHWM", pid) for pid in _family(process.pid)}
            first = max(marks, key=marks.__getitem__, default=process.pid)
            others = marks.keys() - {first}
            if polls % _POLLS_PER_OWN == 0:
                own |= {pid: read_own_bytes(pid) for pid in others}
            largest = max(largest, marks.get(first, 0))
            peak = max(peak, marks.get(first, 0) + sum(own.get(pid, 0) for pid in others))
            polls += 1
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - start
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise SystemExit(f"{' '.join(command[1:4])} … ended with {process.returncode}:\n{tail}")
    return Ran(seconds, peak, largest)


def _make_env(folder: Path, threads: int) -> dict[str, str]:
    """This process's environment with as many threads on both sides, and empty caches."""
    paths = [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PRECISION_HARNESS_CACHE": str(folder / "cache"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1",  # model and items lie here by now
        "HF_DATASETS_OFFLINE": "1",
    }


def _family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []
