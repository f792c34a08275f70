"""The meter: a known allocation is read as it is, and what cannot be read is None, never 0."""

from __future__ import annotations

import mmap
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from harness.engines.shared import available_memory, meter
from harness.engines.shared.available_memory import format_gb, free_bytes
from harness.engines.shared.board import read_energy_j
from harness.engines.shared.meter import MemoryMeter
from harness.machine import control_groups
from harness.run.process import call_in_worker
from tests.support.nvml import install_nvml

MIB = 1 << 20
linux_only = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks on a CPU need Linux's /proc"
)


@linux_only
def test_a_known_allocation_is_read_as_it_is() -> None:
    """256 MiB held and 512 MiB let go: the peak holds both, what is held now only the first."""
    found = call_in_worker(read_allocations)
    assert found["method"] == "VmHWM reset by clear_refs"
    for name, mib in (
        *(("none", 0), ("no_peak", 0)),
        *(("held", 256), ("held_peak", 256), ("held_anonymous", 256)),
        *(("after", 256), ("after_peak", 768), ("new_phase_peak", 256)),
    ):
        assert abs(found[name] - mib * MIB) < 24 * MIB, name


def read_allocations() -> dict[str, object]:
    """In a process of its own: blocks so large that what else the process does hardly counts.

    A higher peak than all that follows comes before the meter.
    """

    def allocate(mib: int) -> bytes:
        return b"x" * (mib << 20)

    before = allocate(1000)
    del before
    reader = MemoryMeter("cpu")
    found: dict[str, object] = {"method": reader.method, "none": reader.current_bytes()}
    reader.start_phase()
    found["no_peak"] = reader.peak_bytes()
    held = allocate(256)
    found["held"], found["held_peak"] = reader.current_bytes(), reader.peak_bytes()
    found["held_anonymous"] = reader.anonymous_bytes()
    more = allocate(512)
    del more
    reader.release_unused()
    found["after"], found["after_peak"] = reader.current_bytes(), reader.peak_bytes()
    reader.start_phase()
    found["new_phase_peak"] = reader.peak_bytes()
    del held
    return found


@linux_only
def test_mapped_files_are_in_what_is_held_but_not_in_anonymous(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * (128 * MIB))
    held, anonymous = call_in_worker(read_mapped, tmp_path / "weights")
    assert held - anonymous > 64 * MIB


def read_mapped(path: Path) -> tuple[int | None, int | None]:
    reader = MemoryMeter("cpu")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        sum(mapped[:: mmap.PAGESIZE])
        return reader.current_bytes(), reader.anonymous_bytes()


def test_free_memory_is_what_the_machine_has_within_its_control_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=900_000, total=1_000_000)
    )
    for left, expected in ((None, 900_000), (400_000, 400_000), (950_000, 900_000)):
        monkeypatch.setattr(control_groups, "read_memory_left", lambda left=left: left)
        assert free_bytes("cpu") == expected


def test_the_free_memory_of_a_gpu_that_is_not_there_is_unknown() -> None:
    assert free_bytes(f"cuda:{torch.cuda.device_count()}") is None
    assert format_gb(None) == "an unknown number of bytes"
    assert format_gb(2_500_000_000) == "2.5 GB"


@pytest.mark.parametrize(("integrated", "expected"), [(0, 3_100), (1, 9_100)])
def test_a_gpu_that_shares_the_cpu_s_memory_may_have_what_files_hold(
    monkeypatch: pytest.MonkeyPatch, integrated: int, expected: int
) -> None:
    """Its driver says 3,000; 100 more are in the allocator, unused."""
    answers = {
        "mem_get_info": (3_000, 10_000),
        "get_device_properties": SimpleNamespace(is_integrated=integrated),
        "memory_reserved": 500,
        "memory_allocated": 400,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    monkeypatch.setattr(available_memory, "read_available_memory", lambda: 9_000)
    assert free_bytes("cuda:0") == expected


def test_a_cpu_has_no_energy_counter() -> None:
    assert read_energy_j("cpu") is None


class Gpu:
    """torch and NVML on a machine with a GPU of 1000 bytes, on which another process holds 100.

    NVML lists another board before it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.reserved = self.peak = self.reserved_peak = self.context = 0
        self.device = "cuda:0"
        answers = {
            "is_initialized": lambda: self.context > 0,
            "set_device": self._initialise,
            "synchronize": lambda device: self._work(device),
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
        self.board = {
            "UUID": "GPU-fast",
            "MemoryInfo": lambda: SimpleNamespace(used=self.used),
            "TotalEnergyConsumption": 12_500,
        }
        other = {"UUID": "GPU-slow", "MemoryInfo": SimpleNamespace(used=7)}
        self.other = other
        install_nvml(monkeypatch, other, self.board)  # by the bus; CUDA counts the fastest first

    @property
    def used(self) -> int:
        return 100 + self.context + self.reserved

    def hold(self, allocated: int, reserved: int) -> None:
        self.allocated, self.reserved = allocated, reserved
        self.peak = max(self.peak, allocated)
        self.reserved_peak = max(self.reserved_peak, reserved)

    def _initialise(self, device: str) -> None:
        self.context, self.device = 50, device

    def _work(self, device: str) -> None:
        assert device == self.device, "a context on CUDA's current device, and one on this"

    def _reset(self, _device: str) -> None:
        self.peak, self.reserved_peak = self.allocated, self.reserved


def test_on_a_gpu_peaks_are_by_phase_and_what_was_reserved_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With given readings; `tests/engines/test_cuda.py` asks a real GPU."""
    gpu = Gpu(monkeypatch)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    reader = MemoryMeter("cuda:0")
    reader.start_phase()
    gpu.hold(400, 600)
    gpu.hold(200, 600)
    assert (reader.peak_bytes(), reader.current_bytes()) == (400, 200)
    assert free_bytes("cuda:0") == 1000 - 100 - 50 - 200
    reader.release_unused()
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


def test_a_cell_on_the_second_gpu_leaves_the_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's current device, on which libraries make their handles, is the cell's."""
    gpu = Gpu(monkeypatch)
    reader = MemoryMeter("cuda:1")
    assert gpu.device == "cuda:1"
    assert reader.device_used_bytes() == 50, "what the board held was read before"


def test_the_use_of_a_gpu_is_unavailable_where_cuda_was_in_use_before_or_nvml_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    gpu.context = 50
    reader = MemoryMeter("cuda:0")
    assert reader.device_used_bytes() is reader.context_bytes() is None
    gpu.context = 0
    del gpu.board["MemoryInfo"]
    reader = MemoryMeter("cuda:0")
    assert reader.device_used_bytes() is None
    assert reader.reserved_peak_bytes() == 0


def test_a_board_that_gives_no_facts_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    del gpu.other["MemoryInfo"]
    reader = MemoryMeter("cuda:0")
    gpu.hold(200, 300)
    assert reader.device_used_bytes() == 50 + 300
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="slow"))
    assert reader.device_used_bytes() is None


def test_the_energy_of_a_gpu_is_its_own_board_s(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    assert read_energy_j("cuda:0") == 12.5
    del gpu.board["TotalEnergyConsumption"]
    assert read_energy_j("cuda:0") is None


def test_without_proc_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "STATUS", tmp_path / "status")
    reader = MemoryMeter("cpu")
    reader.start_phase()
    assert (reader.peak_bytes(), reader.current_bytes()) == (None, None)
    assert reader.method == "unavailable"
