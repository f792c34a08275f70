"""Records, made by hand, for tests of what is done with them."""

from __future__ import annotations

from typing import Any

from harness.record import CellFacts, Measured, Record, Validity, Value


def make_record(
    measurement: str,
    precision: str = "fp32",
    *,
    model: str = "m",
    measured: Measured | None = None,
    values: dict[str, Any] | None = None,
    status: str = "ok",
    reasons: tuple[str, ...] = (),
    **fields: Any,
) -> Record:
    """A record of ``measurement``; ``values`` may be plain numbers."""
    made = {
        name: value if isinstance(value, Value) else Value(value=value)
        for name, value in (values or {}).items()
    }
    given = {"values": made, "validity": Validity(status=status, reasons=reasons), **fields}  # type: ignore[arg-type]
    if measured is not None:
        given |= {name: getattr(measured, name) for name in Measured.model_fields}
    cell = CellFacts(
        id=f"{model}[{precision}]", model=model, precision=precision, device="cpu", source="x"
    )
    return Record(cell=cell, measurement=measurement, **given)
