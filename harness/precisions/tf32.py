"""tf32: weights in fp32, CUDA matrix products in TensorFloat-32 (10-bit mantissa).

Only CUDA has it: on a CPU the same switch would silently measure fp32 under another name.
"""

from __future__ import annotations

from typing import Any

from harness.descriptions import OptionsBase, Precision
from harness.precisions.floats import check_float, float_arguments


class Options(OptionsBase):
    """tf32 has no variations."""


def load_arguments(options: Options, device: str) -> dict[str, Any]:
    return float_arguments("float32")


def check(attested: dict[str, Any], options: Options, device: str) -> list[str]:
    return check_float(attested, "float32", tf32=True)


PRECISION = Precision(
    help=__doc__ or "",
    options=Options,
    load_arguments=load_arguments,
    check=check,
    devices=("cuda",),
    min_capability=(8, 0),  # Ampere; older cards compute plain fp32
    tf32=True,
)
