"""fp16: IEEE half precision; overflows above 65,504."""

from __future__ import annotations

from typing import Any

from harness.descriptions import OptionsBase, Precision
from harness.precisions.floats import check_float, float_arguments


class Options(OptionsBase):
    """fp16 has no variations."""


def load_arguments(options: Options, device: str) -> dict[str, Any]:
    return float_arguments("float16")


def check(attested: dict[str, Any], options: Options, device: str) -> list[str]:
    return check_float(attested, "float16", tf32=False)


PRECISION = Precision(
    help=__doc__ or "",
    options=Options,
    load_arguments=load_arguments,
    check=check,
)
