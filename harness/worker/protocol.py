"""What crosses the pipe between the harness and a cell's process. Plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from harness.record import Record


@dataclass(frozen=True)
class MeasureRequest:
    """Measure ``measurement`` with ``options`` on the loaded model.

    ``reference`` and ``is_reference`` are those of `harness.metrics._forward.MeasureContext`.
    """

    measurement: str
    options: Any
    reference: Record | None = None
    is_reference: bool = False


@dataclass(frozen=True)
class Loaded:
    """The model is ready: what it really is and how long each step took, in seconds.

    ``flags`` is what must be known of every number of it.
    """

    attested: dict[str, Any]
    seconds: dict[str, float]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units are measured."""

    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class Failure:
    """No number: ``failed``, or ``skipped`` where something cannot be had on this machine.

    ``traceback`` is empty for a user's mistake, whose ``reason`` stands alone.
    """

    status: Literal["failed", "skipped"]
    reason: str
    traceback: str = ""
