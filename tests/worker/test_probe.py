"""probe: the device that a run gets, or why not, on machines as CUDA and NVML describe them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

import harness.machine.nvml
import harness.run.machine
from harness.catalog import load_precision
from harness.records.identity import find_board
from harness.run.executor import explain_refusal
from harness.run.machine import Machine, inspect_machine
from harness.suite.cells import Cell
from harness.suite.models import ModelSpec, PrecisionSpec
from harness.worker.messages import Failure
from harness.worker.probe import probe_device, probe_or_explain
from tests.support.nvml import install_nvml

BOARD = {"UUID": "GPU-1", "Name": "NVIDIA H100"}
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12080). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/"
)


class Cuda:
    """torch built for CUDA 13.0 on a machine with H100s, of which ``fails`` is told.

    The second has CUDA capability 9.1 and twice the memory, so that the two can be told apart.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, fails: dict[str, Exception], boards: int = 1
    ) -> None:
        self.called: list[str] = []
        self.current = 0
        self.computed_on: list[int] = []
        patch.setattr(torch, "__version__", "2.13.0+cu130")
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.backends.cuda, "is_built", lambda: True)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for owner, name, answer in (
            (torch.cuda, "is_available", True),  # as NVML counts, whatever the driver can do
            (torch.cuda, "init", None),
            (torch.cuda, "device_count", boards),
            (torch.cuda, "set_device", self._set_device),
            (torch.cuda, "get_device_properties", self._describe),
            (torch, "ones", self._make_ones),
            (torch.backends.cudnn, "version", 91900),
        ):
            patch.setattr(owner, name, self._script(name, answer, fails.get(name)))

    def _script(self, name: str, answer: Any, failure: Exception | None) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            self.called.append(name)
            if failure is not None:
                raise failure
            return answer(*given, **named) if callable(answer) else answer

        return call

    def _set_device(self, index: int) -> None:
        self.current = index

    def _make_ones(self, size: int, device: str) -> torch.Tensor:
        self.computed_on.append(self._find_index(device))
        return torch.zeros(size) + 1

    def _describe(self, device: str | int) -> SimpleNamespace:
        index = self._find_index(device)
        memory = 80_000 * (index + 1)
        return SimpleNamespace(
            name="NVIDIA H100", major=9, minor=index, total_memory=memory, uuid=str(index + 1)
        )

    def _find_index(self, device: str | int) -> int:
        """Which board torch means: the current one for "cuda"."""
        if isinstance(device, int):
            return device
        kind, _, index = device.partition(":")
        assert kind == "cuda"
        return int(index or self.current)


def test_a_gpu_that_computes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, BOARD)
    cuda = Cuda(monkeypatch, {})
    for requested in ("auto", "cuda", "cuda:0"):
        found = probe_device(requested)
        assert (found.device, found.gpu_name) == ("cuda:0", "NVIDIA H100")
        assert (found.capability, found.memory_bytes, found.uuid) == ((9, 0), 80_000, "GPU-1")
        assert found.torch["cudnn"] == 91900
        assert "cuda_unavailable" not in found.torch
    assert "ones" in cuda.called, "a kernel was run"
    assert probe_or_explain("cuda:1") == (
        "--device cuda:1: torch sees 1 CUDA device (torch 2.13.0+cu130 is built for CUDA 13.0)"
    )


def test_the_board_that_is_asked_for_is_the_one_that_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_nvml(monkeypatch, BOARD, {"UUID": "GPU-2", "Name": "NVIDIA H100"})
    cuda = Cuda(monkeypatch, {}, boards=2)
    found = probe_device("cuda:1")
    assert cuda.computed_on == [1]
    assert (found.device, found.uuid) == ("cuda:1", "GPU-2")
    assert (found.capability, found.memory_bytes) == ((9, 1), 160_000)
    assert str(probe_or_explain("cuda:2")).startswith("--device cuda:2: torch sees 2 CUDA devices")
    assert cuda.computed_on == [1]


def test_a_run_knows_its_board_whatever_cuda_calls_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """CUDA's first board, by its speed or by CUDA_VISIBLE_DEVICES, is NVML's second."""
    install_nvml(monkeypatch, {"UUID": "GPU-0", "Name": "NVIDIA T4"}, BOARD)
    Cuda(monkeypatch, {})
    monkeypatch.setattr(harness.run.machine, "call_in_worker", lambda call, *args: call(*args))
    machine = inspect_machine("cuda", tmp_path, online=False)
    assert machine.device.device == "cuda:0"
    assert machine.environment["gpu"]["used"] == 1
    assert find_board(machine.environment, "cuda:0")["name"] == "NVIDIA H100"


def test_a_cpu_run_does_not_start_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch, {})
    assert probe_device("cpu").device == "cpu"
    assert not cuda.called


def test_a_driver_too_old_for_this_torch_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NVML counts its GPU, so that torch believes in it until CUDA starts."""
    install_nvml(monkeypatch, BOARD)
    Cuda(monkeypatch, {"init": RuntimeError(TOO_OLD)})
    reason = (
        "the NVIDIA driver is too old: torch 2.13.0+cu130 is built for CUDA 13.0, driver 570.1 "
        "runs CUDA up to 12.8. Install a driver for CUDA 13, or a torch built for CUDA 12, see "
        "https://pytorch.org/get-started/previous-versions"
    )
    assert probe_or_explain("cuda") == f"--device cuda: {reason}"
    found = probe_device("auto")
    assert found.device == "cpu"
    assert found.torch["cuda_unavailable"] == reason
    machine = Machine(found, {}, online=False)
    assert machine.notice == f"this run is on the CPU: {reason}"
    needs = {"name": "m", "source": "x", "requires": {"device": "cuda"}}
    precision = PrecisionSpec(name="bf16", use="bf16", options=load_precision("bf16").options())
    refusal = explain_refusal(Cell(ModelSpec(**needs), precision, ()), machine)
    assert refusal == Failure("skipped", f"m requires cuda, {machine.notice}")


@pytest.mark.parametrize("driver", ["its library", "its kernel module", None])
def test_a_board_that_nvml_does_not_show_is_missed_aloud(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str | None
) -> None:
    """A container with the driver capability `compute` alone has no NVML."""
    nvml = install_nvml(monkeypatch, BOARD)
    Cuda(monkeypatch, {"init": RuntimeError(TOO_OLD)})

    def load(name: str) -> None:
        if name != "libcuda.so.1" or driver != "its library":
            raise OSError(f"{name}: cannot open shared object file")

    def refuse() -> None:
        raise nvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    folder = tmp_path if driver == "its kernel module" else tmp_path / "missing"
    monkeypatch.setattr(harness.machine.nvml, "_KERNEL_MODULE", folder)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(nvml, "nvmlInit", refuse)
    found = probe_device("auto")
    assert found.device == "cpu"
    why = f"CUDA cannot be used: {TOO_OLD} (torch 2.13.0+cu130 is built for CUDA 13.0; NVML: "
    notice = Machine(found, {}, online=False).notice
    assert (
        notice is None
        if driver is None
        else str(notice).startswith(f"this run is on the CPU: {why}")
    )


NO_IMAGE = RuntimeError("CUDA error: no kernel image is available\nSearch for `cudaErrorNoKernel`")
NOT_READY = RuntimeError(
    "Unexpected error from cudaGetDeviceCount(). Error 802: not yet initialized"
)
MISMATCH = RuntimeError("cuDNN version incompatibility: compiled against (9, 19, 0)")


@pytest.mark.parametrize(
    ("where", "error"), [("init", NOT_READY), ("ones", NO_IMAGE), ("version", MISMATCH)]
)
def test_any_other_failure_is_told_in_cuda_s_own_words(
    monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    """A driver that runs this build, but no device, kernel or library that does."""
    nvml = install_nvml(monkeypatch, BOARD)
    monkeypatch.setattr(nvml, "nvmlSystemGetCudaDriverVersion", lambda: 13010)
    Cuda(monkeypatch, {where: error})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert probe_or_explain("cuda") == (
        f"--device cuda: CUDA cannot be used: {str(error).splitlines()[0]} (torch 2.13.0+cu130 is "
        "built for CUDA 13.0, CUDA_VISIBLE_DEVICES is '3', driver 570.1 runs CUDA up to 13.1)"
    )


def test_a_machine_without_a_gpu_is_no_reason_for_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build for CUDA, and NVML without a board: a laptop with the usual wheel."""
    install_nvml(monkeypatch)
    Cuda(monkeypatch, {"init": RuntimeError("Found no NVIDIA driver on your system.")})
    found = probe_device("auto")
    assert found.device == "cpu"
    assert Machine(found, {}, online=False).notice is None


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="a CPU build of torch is needed")
def test_a_cpu_build_beside_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, BOARD)
    lack = f"torch sees 0 CUDA devices (torch {torch.__version__} is a CPU build): install a build"
    assert str(probe_or_explain("cuda:0")).startswith(f"--device cuda:0: {lack}")
    assert probe_device("auto").torch["cuda_unavailable"].startswith(lack)
