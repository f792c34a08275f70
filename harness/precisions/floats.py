"""The unquantised precisions: one dtype for every floating-point weight."""

from typing import Any

from harness.descriptions import OptionsBase, Precision
from harness.precisions.checks import check_float


class NoOptions(OptionsBase):
    """No variations."""


def float_precision(
    dtype: str, help_text: str | None, *, tf32: bool = False, **limits: Any
) -> Precision:
    """A precision that loads every weight as ``dtype``, a torch dtype's name.

    ``limits`` are other fields of `Precision`, such as ``devices`` and ``rules_of_thumb``.
    """
    return Precision(
        help=help_text or "",
        options=NoOptions,
        load_arguments=lambda options, device: {"dtype": dtype},
        check=lambda attested, options, device: check_float(attested, dtype, tf32=tf32),
        tf32=tf32,
        **limits,
    )
