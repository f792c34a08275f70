"""Messages between the harness and a cell's process. Plain frozen data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from harness.errors import InputError, UnavailableError
from harness.records.record import Measured, Record

T = TypeVar("T")


@dataclass(frozen=True)
class MeasureRequest:
    """Measure ``measurement`` with ``options`` on the loaded model.

    ``reference`` and ``is_reference`` are those of `MeasureContext`.
    """

    measurement: str
    options: Any
    reference: Record | None = None
    is_reference: bool = False


@dataclass(frozen=True)
class Loaded:
    """The model is ready: facts about it, seconds of each step, warnings for all its numbers."""

    attested: dict[str, Any]
    seconds: dict[str, float]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units are measured; 0 of so many "items" comes before the first."""

    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class Partial:
    """The measurement so far: it is kept even if the process does not survive ``before``."""

    measured: Measured
    before: str


@dataclass(frozen=True)
class Failure:
    """No number, or not all: ``failed``, or ``skipped`` where this machine cannot have one.

    ``traceback`` is empty for a user's mistake. ``measured`` was finished before the failure.
    """

    status: Literal["failed", "skipped"]
    reason: str
    traceback: str = ""
    measured: Measured | None = None

    def after(self, partial: Partial | None) -> Failure:
        """The same of a measurement that had kept ``partial``."""
        if partial is None:
            return self
        reason = f"{self.reason} (at {partial.before}; what was finished before is kept)"
        return replace(self, reason=reason, measured=partial.measured)


def explain_mistake(work: Callable[[], T]) -> T | Failure:
    """The result of ``work``, or a `Failure` for a user's mistake; a bug is not caught."""
    try:
        return work()
    except InputError as error:
        return Failure("failed", str(error))
    except UnavailableError as error:
        return Failure("skipped", str(error))
