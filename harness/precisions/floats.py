"""What the unquantised precisions share: one dtype for every floating-point weight."""

from __future__ import annotations

from typing import Any

from harness.precisions.loaded import check_dtypes, check_tf32


def float_arguments(dtype: str) -> dict[str, Any]:
    """``from_pretrained`` keywords that load every weight as ``dtype`` (a torch dtype's name)."""
    import torch

    return {"dtype": getattr(torch, dtype)}


def check_float(attested: dict[str, Any], dtype: str, *, tf32: bool) -> list[str]:
    """Differences between the declared dtype and what was loaded; empty when they agree."""
    wrong = []
    if attested["quantisation"] is not None:
        wrong.append(f"declared unquantised, loaded as {attested['quantisation']}")
    integers = [name for name in attested["linear_dtypes"] if "int" in name]
    if integers:
        wrong.append(f"declared {dtype}, but linear layers hold {', '.join(integers)}")
    return wrong + check_dtypes(attested, dtype) + check_tf32(attested, tf32)
