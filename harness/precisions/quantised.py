"""What the quantised precisions share: no linear layer, and nothing large, left as floats."""

from __future__ import annotations

from typing import Any, Literal

from harness.precisions.loaded import check_dtypes, check_tf32

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
    skipped = attested["skipped_linears"]
    if skipped:
        wrong.append(
            f"declared {kind}, but {len(skipped)} linear layers were left unquantised, such as "
            f"{skipped[0]}"
        )
    share = attested["unquantised_share"]
    if share > _MAY_STAY:
        reasons = attested["unquantised"].items()
        inner = [
            f"{names[0]} ({why})"
            for why, names in reasons
            if not why.startswith(("embedding", "output head"))
        ]
        wrong.append(
            f"declared {kind}, but {share:.0%} of the weights were left unquantised: "
            + ", ".join(inner)
        )
    if attested["output_head"] == kind:
        wrong.append(f"declared {kind} with the output head in {dtype}, but it is {kind} too")
    return (
        wrong
        + check_dtypes(attested, dtype, " for what is not quantised")
        + check_tf32(attested, False)
    )
