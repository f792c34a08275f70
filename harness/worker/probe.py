"""Ask torch about this machine's devices; once per run, in a process of its own.

The host passes these functions to that process, so importing this file imports no torch.
"""

from typing import Any

from harness.machine.environment import DeviceFacts, describe_memory


def probe_device(requested: str) -> DeviceFacts:
    """Resolve 'auto', 'cpu', 'cuda' or 'cuda:N'. Runs in a worker.

    Raises ValueError where the requested device is not there.
    """
    import torch

    from harness.engines.shared.board import find_uuid

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    facts: dict[str, Any] = {
        "version": str(torch.__version__),  # a class of torch's own, which would bring it along
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if requested == "cpu" or (requested == "auto" and not seen):
        memory = describe_memory()
        return DeviceFacts("cpu", None, memory["limit_bytes"] or memory["total_bytes"], facts)
    index = int(requested.partition(":")[2] or 0)
    if index >= seen:
        build = "a CPU build" if torch.version.cuda is None else f"built for {torch.version.cuda}"
        raise ValueError(f"--device {requested}: torch sees {seen} CUDA devices (it is {build})")
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
