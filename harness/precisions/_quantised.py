"""What the quantised precisions share: nothing large may have been left as floats."""

from __future__ import annotations

from typing import Any, Literal

ComputeDtype = Literal["float32", "bfloat16", "float16"]
# Routers and gates are small; a mixture's experts are most of the model.
_MAY_STAY = 0.05


def default_dtype(device: str) -> ComputeDtype:
    """The dtype of what is not quantised, and of the products where there is a choice."""
    return "bfloat16" if device == "cuda" else "float32"


def check_quantised(attested: dict[str, Any], kind: str, dtype: str) -> list[str]:
    """Differences that any quantised precision must not have; ``dtype`` is of the rest."""
    if attested["quantisation"] != kind:
        return [f"declared {kind}, loaded as {attested['quantisation'] or 'unquantised'}"]
    wrong = []
    share = attested["unquantised_share"]
    if share > _MAY_STAY:
        names = attested["unquantised"]
        wrong.append(
            f"declared {kind}, but {share:.0%} of the weights were left unquantised, such as "
            f"{names[0]} (bitsandbytes passes over fused experts)"
        )
    others = [other for other in attested["float_dtypes"] if other != dtype]
    if others:
        wrong.append(f"declared {dtype} for what is not quantised, loaded as {', '.join(others)}")
    return wrong
