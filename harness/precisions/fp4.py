"""fp4: 4-bit floating point (1 sign, 2 exponent, 1 mantissa bits), by bitsandbytes."""

from __future__ import annotations

from typing import Any

from harness.descriptions import Precision
from harness.precisions.four_bit import (
    FourBitOptions,
    check_four_bit,
    choose_cpu_kernel,
    four_bit_arguments,
)


class Options(FourBitOptions):
    """``double_quant`` and ``compute_dtype``."""


def load_arguments(options: Options, device: str) -> dict[str, Any]:
    return four_bit_arguments("fp4", options, device)


def prepare(model: Any, options: Options, device: str) -> None:
    choose_cpu_kernel(model, options, device)


def check(attested: dict[str, Any], options: Options, device: str) -> list[str]:
    return check_four_bit(attested, "fp4", options, device)


PRECISION = Precision(
    help=__doc__ or "",
    options=Options,
    load_arguments=load_arguments,
    check=check,
    prepare=prepare,
    quantisers=("quantize_4bit",),
)
