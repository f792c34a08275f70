"""Sizes as they are written on the command line."""

import re
from typing import Any

import click

_UNITS = {"B": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("kMGT", start=1)
    for end, base in (("B", 1000), ("iB", 1024))
}
_UNITS["KiB"] = 1024


class SizeType(click.ParamType[int]):
    """Bytes such as 24GiB or 24GB, which are not the same."""

    name = "size"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip()
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text)
        if match is None or match[2] not in _UNITS or not float(match[1]):
            raise click.BadParameter(_explain(text, match))
        return int(float(match[1]) * _UNITS[match[2]])


def _explain(text: str, match: re.Match[str] | None) -> str:
    """What was expected, and what was meant where that can be told."""
    units = {unit.lower(): unit for unit in _UNITS}
    hint = ""
    if match and not match[2]:
        hint = f"; of what? {text}GiB (2³⁰ bytes each) or {text}GB (10⁹)"
    elif match and match[2].lower() in units and float(match[1]) > 0:
        hint = f"; did you mean {match[1]}{units[match[2].lower()]}?"
    return f"expected a size such as 24GiB or 24GB, found {text!r}{hint}"


class ShareType(click.ParamType[float]):
    """A share between 0 and 1, also as a percentage."""

    name = "share"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d*\.?\d+) ?(%?)", str(value).strip())
        share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
        if not 0 <= share <= 1:
            meant = f"; did you mean {value}%?" if match and not match[2] and share <= 100 else ""
            raise click.BadParameter(f"expected a share such as 0.02 or 2%, found {value!r}{meant}")
        return share


SIZE, SHARE = SizeType(), ShareType()
