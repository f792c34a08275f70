"""What no precision may differ in from what was loaded: dtypes of floats, TF32."""

from __future__ import annotations

from typing import Any


def check_dtypes(attested: dict[str, Any], dtype: str, what: str = "") -> list[str]:
    """Tensors of floats that are not ``dtype``; ``what`` of the model was declared to be.

    What the architecture itself holds in another dtype is not among them.
    """
    declared = f"declared {dtype}{what}"
    others = [found for found in attested["dtypes"] if found != dtype]
    if dtype not in attested["dtypes"]:
        return [f"{declared}, loaded as {', '.join(others) or 'no floats at all'}"]
    return [f"{declared}, but {_describe_odd(attested, other, dtype)}" for other in others]


def check_tf32(attested: dict[str, Any], on: bool) -> list[str]:
    """Whether TF32 is in force where it was not declared, or the other way round."""
    if attested["tf32"] == on:
        return []
    return [f"declared TF32 {_switch(on)}, in force it is {_switch(attested['tf32'])}"]


def check_nothing_else(attested: dict[str, Any]) -> list[str]:
    """What no precision declares: weights held in another way than any of them does, autocast."""
    wrong = []
    foreign = attested["foreign_layers"]
    if foreign:
        more = f" and {len(foreign) - 3} more" * (len(foreign) > 3)
        wrong.append(
            "held by neither torch's plain tensors nor bitsandbytes' layers: "
            f"{', '.join(foreign[:3])}{more}"
        )
    if attested["autocast"]:
        wrong.append("autocast is on: products are computed in another dtype than was declared")
    return wrong


def _describe_odd(attested: dict[str, Any], other: str, dtype: str) -> str:
    count = attested["dtypes"][other]
    names = attested["odd_dtypes"].get(other)
    where = f", such as {names[0]}" if names else f"; only {attested['dtypes'][dtype]} hold {dtype}"
    return f"{count} tensors hold {other}{where}"


def _switch(on: bool) -> str:
    return "on" if on else "off"
