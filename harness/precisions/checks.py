"""Differences between a declared precision and what was loaded, as `check` lists them."""

from typing import Any

# Routers and gates are small; a mixture's experts are most of the model.
_MAY_STAY_UNQUANTISED = 0.05


def check_float(attested: dict[str, Any], dtype: str, *, tf32: bool = False) -> list[str]:
    """For a precision that stores every weight as ``dtype``."""
    wrong = []
    if attested["quantisation"] is not None:
        wrong.append(f"declared unquantised, loaded as {attested['quantisation']}")
    integers = [name for name in attested["linear_dtypes"] if "int" in name]
    if integers:
        wrong.append(f"declared {dtype}, but linear layers hold {', '.join(integers)}")
    return wrong + _check_dtypes(attested, dtype) + _check_tf32(attested, tf32)


def check_quantised(attested: dict[str, Any], kind: str, dtype: str) -> list[str]:
    """For a precision that quantises every linear layer to ``kind`` but the output head.

    ``dtype`` is that of everything else.
    """
    if attested["quantisation"] != kind:
        return [f"declared {kind}, loaded as {attested['quantisation'] or 'unquantised'}"]
    wrong = []
    skipped = attested["skipped_linears"]
    if skipped:
        wrong.append(
            f"declared {kind}, but {len(skipped)} linear layers are unquantised, such as "
            f"{skipped[0]}"
        )
    share = attested["unquantised_share"]
    if share > _MAY_STAY_UNQUANTISED:
        inner = [
            f"{names[0]} ({why})"
            for why, names in attested["unquantised"].items()
            if not why.startswith(("embedding", "output head"))
        ]
        wrong.append(
            f"declared {kind}, but {share:.0%} of the weights are unquantised: " + ", ".join(inner)
        )
    if attested["output_head"] == kind:
        wrong.append(f"declared {kind} with the output head in {dtype}, but it is {kind} too")
    rest = _check_dtypes(attested, dtype, " for what is not quantised")
    return wrong + rest + _check_tf32(attested, False)


def _check_dtypes(attested: dict[str, Any], dtype: str, scope: str = "") -> list[str]:
    """Float tensors that are not ``dtype``, those that the architecture itself keeps apart."""
    declared = f"declared {dtype}{scope}"
    others = [found for found in attested["dtypes"] if found != dtype]
    if dtype not in attested["dtypes"]:
        return [f"{declared}, loaded as {', '.join(others) or 'no floats at all'}"]
    return [f"{declared}, but {_describe_odd(attested, other, dtype)}" for other in others]


def _describe_odd(attested: dict[str, Any], other: str, dtype: str) -> str:
    count = attested["dtypes"][other]
    names = attested["odd_dtypes"].get(other)
    where = f", such as {names[0]}" if names else f"; only {attested['dtypes'][dtype]} hold {dtype}"
    return f"{count} tensors hold {other}{where}"


def _check_tf32(attested: dict[str, Any], on: bool) -> list[str]:
    if attested["tf32"] == on:
        return []
    declared, found = ("on" if switch else "off" for switch in (on, attested["tf32"]))
    return [f"declared TF32 {declared}, in force it is {found}"]
