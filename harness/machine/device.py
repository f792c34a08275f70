"""The device that a run measures on, as plain facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DeviceFacts:
    """The device that cells run on: 'cpu' or 'cuda:N', its memory in bytes, torch's settings.

    ``uuid`` is the board's, by which NVML finds it; it goes into no record.
    """

    device: str
    gpu_name: str | None
    memory_bytes: int
    torch: dict[str, Any] = field(default_factory=dict)
    uuid: str | None = None

    @property
    def capability(self) -> tuple[int, int]:
        """CUDA compute capability; (0, 0) for a CPU."""
        major, _, minor = self.torch.get("capability", "0.0").partition(".")
        return int(major), int(minor)

    @property
    def type(self) -> str:
        """'cpu' or 'cuda'."""
        return self.device.split(":")[0]
