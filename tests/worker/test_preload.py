"""preload: what the fork server holds ready, and that none of it harms what is forked."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import pytest

from harness.run.process import call_in_worker
from harness.worker.preload import has_gpu_driver


def look_around() -> dict[str, Any]:
    """What a fresh worker finds; runs there."""
    import torch

    found = {
        "compiler": "torch._inductor.compile_fx" in sys.modules,
        "threads": (threading.active_count(), len(os.listdir("/proc/self/task"))),
        "cuda": torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork(),
        "collects": gc.isenabled(),
        "warm_pool": os.environ.get("TORCH_WARM_POOL"),
        "nvml_check": os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK"),
    }
    before = set(sys.modules)
    import bitsandbytes  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    return {**found, "imported": set(sys.modules) - before}


@pytest.fixture(scope="module")
def worker() -> dict[str, Any]:
    found: dict[str, Any] = call_in_worker(look_around)
    return found


def test_nothing_is_left_to_import_for_a_quantised_cell(worker: dict[str, Any]) -> None:
    """It took 1.3 s of each; where there is a GPU, bitsandbytes itself has to be left."""
    assert worker["compiler"]
    if not has_gpu_driver():
        assert worker["imported"] == set()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads need Linux's /proc")
def test_no_thread_and_no_cuda_was_started(worker: dict[str, Any]) -> None:
    assert worker["threads"] == (1, 1)
    assert not worker["cuda"]


def test_a_cell_finds_the_settings_of_a_fresh_process(worker: dict[str, Any]) -> None:
    assert worker["collects"]
    assert worker["warm_pool"] == os.environ.get("TORCH_WARM_POOL")
    assert worker["nvml_check"] is None, "torch would believe in a GPU that its driver cannot use"
