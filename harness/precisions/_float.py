"""What the unquantised precisions share: one dtype for every floating-point weight."""

from __future__ import annotations

from typing import Any


def float_arguments(dtype: str) -> dict[str, Any]:
    """``from_pretrained`` keywords that load every weight as ``dtype`` (a torch dtype's name)."""
    import torch

    return {"dtype": getattr(torch, dtype)}


def check_float(attested: dict[str, Any], dtype: str, *, tf32: bool) -> list[str]:
    """Differences between the declared dtype and what was loaded; empty when they agree."""
    wrong = []
    if attested["quantisation"] is not None:
        wrong.append(f"declared unquantised, loaded as {attested['quantisation']}")
    others = sorted(set(attested["linear_dtypes"]) - {dtype})
    if others:
        wrong.append(f"declared {dtype}, but linear layers hold {', '.join(others)}")
    if attested["tf32"] != tf32:
        wrong.append(f"declared TF32 {_switch(tf32)}, in force it is {_switch(attested['tf32'])}")
    return wrong


def _switch(on: bool) -> str:
    return "on" if on else "off"
