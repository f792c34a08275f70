"""The meter: a known allocation is read as it is, and what cannot be read is None, never 0."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest
import torch

from harness.engines.shared import free_memory, meter
from harness.engines.shared.meter import MemoryMeter, free_bytes
from harness.run.process import call_in_worker
from harness.timing.known_allocation import read_known_allocation

MIB = 1 << 20
linux_only = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks on a CPU need Linux's /proc"
)


@linux_only
def test_a_known_allocation_is_read_within_two_percent() -> None:
    """256 MiB held and 512 MiB let go: the peak holds both, what is held now only the first."""
    script = """
import json
from harness.engines.shared.meter import MemoryMeter

def allocate(mib):
    return b"x" * (mib << 20)

before = allocate(300)  # a higher peak than what follows, from before the meter
del before
meter = MemoryMeter("cpu")
found = {"none": meter.current_bytes()}
meter.start_phase()
found["no_peak"] = meter.peak_bytes()
held = allocate(256)
found["held"], found["held_peak"] = meter.current_bytes(), meter.peak_bytes()
more = allocate(512)
del more
meter.settle()
found["after"], found["after_peak"] = meter.current_bytes(), meter.peak_bytes()
meter.start_phase()
found["new_phase_peak"] = meter.peak_bytes()
found["method"] = meter.method
print(json.dumps(found))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    found = json.loads(answer.stdout)
    assert found["method"] == "VmHWM reset by clear_refs"
    slack = 0.02 * 256 * MIB
    assert found["none"] < slack
    assert found["no_peak"] < slack
    for name in ("held", "held_peak", "after", "new_phase_peak"):
        assert found[name] == pytest.approx(256 * MIB, rel=0.02), name
    assert found["after_peak"] == pytest.approx(768 * MIB, rel=0.02)


@linux_only
def test_a_known_tensor_is_read_within_two_percent_in_every_way_a_cpu_has() -> None:
    found = call_in_worker(read_known_allocation, "cpu", 256 * MIB)
    assert found.pop("allocated") == 256 * MIB
    assert (found.pop("reserved"), found.pop("device_used")) == (None, None)
    assert found == {
        name: pytest.approx(256 * MIB, rel=0.02) for name in ("held", "peak", "anonymous")
    }


@linux_only
def test_mapped_files_are_in_what_is_held_but_not_in_anonymous(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * (64 * MIB))
    held, anonymous = call_in_worker(read_mapped, tmp_path / "weights")
    assert held == pytest.approx(64 * MIB, rel=0.05)
    assert anonymous < 2 * MIB


def read_mapped(path: Path) -> tuple[int | None, int | None]:
    reader = MemoryMeter("cpu")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        sum(mapped[:: mmap.PAGESIZE])
        return reader.current_bytes(), reader.anonymous_bytes()


def test_free_memory_is_what_the_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached files that the kernel can drop count as free; a group without a limit is passed by."""
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder, limit, used in ((tmp_path, "900000", "500000"), (inner, "max", "400000")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(used)
        (folder / "memory.stat").write_text("anon 300000\ninactive_file 20000\nactive_file 50000\n")
    monkeypatch.setattr(free_memory, "list_cgroups", lambda: [inner, tmp_path])
    assert free_bytes("cpu") == 900_000 - 500_000 + 70_000
    monkeypatch.setattr(free_memory, "list_cgroups", lambda: [inner])
    free = free_bytes("cpu")
    assert free is not None
    assert 0 < free <= psutil.virtual_memory().total


def test_a_gpu_that_is_not_there_has_no_free_memory_that_could_be_told() -> None:
    assert free_bytes(f"cuda:{torch.cuda.device_count()}") is None


class Gpu:
    """What torch and NVML say of a GPU of 1000 bytes, on which another process holds 100.

    NVML lists another board before it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.reserved = self.peak = self.reserved_peak = self.context = 0
        answers = {
            "is_initialized": lambda: self.context > 0,
            "synchronize": self._initialise,
            "empty_cache": lambda: self.hold(self.allocated, self.allocated),
            "reset_peak_memory_stats": self._reset,
            "memory_allocated": lambda _: self.allocated,
            "memory_reserved": lambda _: self.reserved,
            "max_memory_allocated": lambda _: self.peak,
            "max_memory_reserved": lambda _: self.reserved_peak,
            "get_device_properties": lambda _: SimpleNamespace(uuid="fast"),
            "mem_get_info": lambda _: (1000 - self.used, 1000),
            "get_allocator_backend": lambda: "native",
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
        boards = ["GPU-slow", "GPU-fast"]  # by the bus; CUDA counts the fastest first
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(boards))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: boards[index])
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: handle)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", self._tell)

    @property
    def used(self) -> int:
        return 100 + self.context + self.reserved

    def hold(self, allocated: int, reserved: int) -> None:
        self.allocated, self.reserved = allocated, reserved
        self.peak = max(self.peak, allocated)
        self.reserved_peak = max(self.reserved_peak, reserved)

    def _tell(self, board: str) -> SimpleNamespace:
        return SimpleNamespace(used=self.used if board == "GPU-fast" else 7)

    def _initialise(self, _device: str) -> None:
        self.context = 50

    def _reset(self, _device: str) -> None:
        self.peak, self.reserved_peak = self.allocated, self.reserved


def test_on_a_gpu_peaks_are_by_phase_and_what_was_reserved_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By hand, as far as it goes without one; `tests/test_cuda.py` asks a real GPU."""
    gpu = Gpu(monkeypatch)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    reader = MemoryMeter("cuda:0")
    reader.start_phase()
    gpu.hold(400, 600)
    gpu.hold(200, 600)
    assert (reader.peak_bytes(), reader.current_bytes()) == (400, 200)
    assert free_bytes("cuda:0") == 1000 - 100 - 50 - 200
    reader.settle()
    assert (gpu.reserved, reader.device_used_bytes()) == (200, 50 + 200)
    reader.start_phase()
    gpu.hold(300, 350)
    assert reader.peak_bytes() == 300
    assert reader.reserved_peak_bytes() == 600
    assert reader.device_used_bytes() == 50 + 350
    assert reader.context_bytes() == 50
    assert reader.anonymous_bytes() is None
    assert reader.method == "torch.cuda.max_memory_allocated"
    assert reader.allocator == {
        "name": "native",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }


def test_the_use_of_a_gpu_is_unavailable_where_cuda_was_in_use_before_or_nvml_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    gpu.context = 50
    reader = MemoryMeter("cuda:0")
    assert reader.device_used_bytes() is reader.context_bytes() is None
    gpu.context = 0

    def deny(_handle: int) -> None:
        raise pynvml.NVMLError_NoPermission()

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", deny)
    reader = MemoryMeter("cuda:0")
    assert reader.device_used_bytes() is None
    assert reader.reserved_peak_bytes() == 0


def test_a_board_that_tells_nothing_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)

    def tell(board: str) -> SimpleNamespace:
        if board == "GPU-slow":
            raise pynvml.NVMLError_NoPermission()
        return SimpleNamespace(used=gpu.used)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", tell)
    reader = MemoryMeter("cuda:0")
    gpu.hold(200, 300)
    assert reader.device_used_bytes() == 50 + 300
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="slow"))
    assert reader.device_used_bytes() is None


def test_without_proc_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_STATUS", tmp_path / "status")
    reader = MemoryMeter("cpu")
    reader.start_phase()
    assert (reader.peak_bytes(), reader.current_bytes()) == (None, None)
    assert reader.method == "unavailable"
