"""Ask torch about this machine's devices; once per run, in a process of its own.

The host passes these functions to that process, so importing this file imports no torch.
"""

import os
from typing import Any

from harness.machine.environment import DeviceFacts, describe_memory
from harness.machine.nvml import NvmlError, NvmlSession, has_cuda_driver


def probe_device(requested: str) -> DeviceFacts:
    """Resolve 'auto', 'cpu', 'cuda' or 'cuda:N'. Runs in a worker.

    Where 'auto' falls back to the CPU although there is a GPU, ``cuda_unavailable`` says why.
    Raises ValueError where the requested device is not there or cannot compute.
    """
    import torch

    from harness.engines.shared.board import find_uuid

    facts: dict[str, Any] = {
        "version": str(torch.__version__),  # a class of torch's own, which would bring it along
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    index = int(requested.partition(":")[2] or 0)
    lack = None if requested == "cpu" else explain_lack(index)
    if lack is not None and requested != "auto":
        raise ValueError(f"--device {requested}: {lack}")
    if requested == "cpu" or lack is not None:
        if lack is not None and _may_have_board():
            facts["cuda_unavailable"] = lack
        memory = describe_memory()
        return DeviceFacts("cpu", None, memory["limit_bytes"] or memory["total_bytes"], facts)
    properties = torch.cuda.get_device_properties(index)
    facts["capability"] = f"{properties.major}.{properties.minor}"
    facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    device = f"cuda:{index}"
    return DeviceFacts(device, properties.name, properties.total_memory, facts, find_uuid(device))


def probe_or_explain(requested: str) -> DeviceFacts | str:
    """`probe_device`, with its ValueError as text, which a worker can send back."""
    try:
        return probe_device(requested)
    except ValueError as error:
        return str(error)


def explain_lack(index: int) -> str | None:
    """Why torch cannot compute on CUDA device ``index``, and what to do; None where it can.

    Starts CUDA and runs a kernel: a GPU that is listed may have too old a driver, or be one that
    this build of torch has no kernels for.
    """
    import torch

    build = f"torch {torch.__version__}"
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return (
            f"torch sees 0 CUDA devices ({build} is a CPU build): "
            "install a build for CUDA, see https://pytorch.org/get-started/locally"
        )
    build += f" is built for CUDA {torch.version.cuda}"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        seen = torch.cuda.device_count()
        if index >= seen:
            return f"torch sees {seen} CUDA device{'s' * (seen != 1)} ({build})"
        torch.cuda.set_device(index)
        torch.ones(1, device="cuda").add_(1).item()
        torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # raises if it is another's
    except (RuntimeError, AssertionError) as error:
        lines = str(error).splitlines()
        return _explain_error(lines[0] if lines else type(error).__name__, build)
    return None


def _explain_error(error: str, build: str) -> str:
    """CUDA's own words, what the driver can do, and what to install where it is too old."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        build += f", CUDA_VISIBLE_DEVICES is {visible!r}"
    try:
        with NvmlSession() as nvml:
            driver, newest = nvml.driver, nvml.cuda
    except NvmlError as reason:
        return f"CUDA cannot be used: {error} ({build}; NVML: {reason})"
    wheel = torch.version.cuda or ""
    major = int(wheel.partition(".")[0] or 0)
    runs = f"driver {driver} runs CUDA up to {newest[0]}.{newest[1]}"
    if newest[0] >= major:  # within a major version any driver runs any build
        return f"CUDA cannot be used: {error} ({build}, {runs})"
    return (
        f"the NVIDIA driver is too old: {build}, {runs}. Install a driver for CUDA {major}, or a "
        f"torch built for CUDA {newest[0]}, see https://pytorch.org/get-started/previous-versions"
    )


def _may_have_board() -> bool:
    """By NVML or, where it is missing, as in containers that may only compute, by the driver."""
    try:
        with NvmlSession() as nvml:
            return bool(nvml.list_boards())
    except NvmlError:
        return has_cuda_driver()
