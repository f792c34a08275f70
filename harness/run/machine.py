"""What a run runs on, found once: the device, the environment, whether the hub can be reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine.environment import DeviceFacts, collect_environment, device_slug
from harness.machine.nvml import hash_uuid
from harness.run.process import call_in_worker
from harness.suite.data_source import locate_source
from harness.suite.models import Suite, list_sources
from harness.worker.probe import probe_or_explain


@dataclass(frozen=True)
class Machine:
    """The device that cells run on and everything a record should know of its surroundings."""

    device: DeviceFacts
    environment: dict[str, dict[str, Any]]
    online: bool

    @property
    def slug(self) -> str:
        """The device's part of a file name, such as ``cuda-nvidia-h200``."""
        return device_slug(
            self.device.device, self.device.gpu_name, self.environment["cpu"]["name"] or "unknown"
        )

    @property
    def description(self) -> str:
        """The device in words, for a person."""
        name = self.device.gpu_name or self.environment["cpu"]["name"]
        return f"{self.device.device} ({name}), torch {self.device.torch['version']}"

    @property
    def notice(self) -> str | None:
        """Why a run that might use a GPU of this machine does not; None where there is nothing."""
        lack = self.device.torch.get("cuda_unavailable")
        return f"this run is on the CPU: {lack}" if lack else None


def inspect_machine(requested_device: str, root: Path, online: bool) -> Machine:
    """Probe the device in a worker and collect the environment.

    Raises ValueError where the requested device is not there.
    """
    environment = collect_environment(root)
    device = call_in_worker(probe_or_explain, requested_device)
    if isinstance(device, str):
        raise ValueError(device)
    environment["torch"] = device.torch
    for board in environment["gpu"].get("devices", ()):
        if device.uuid is not None and board["uuid_hash"] == hash_uuid(device.uuid):
            environment["gpu"]["used"] = board["index"]
    return Machine(device, environment, online)


def probe_hub(suites: list[Suite]) -> bool:
    """Ask the hub once, and only where a suite names something that lives there."""
    if not any(map(_needs_hub, suites)):
        return False
    from harness.suite.hub import hub_is_reachable  # imports huggingface_hub, which takes a while

    return hub_is_reachable()


def _needs_hub(suite: Suite) -> bool:
    return any(locate_source(one, suite.folder)[0] == "hub" for one in list_sources(suite))
