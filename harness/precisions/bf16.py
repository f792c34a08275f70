"""bf16: brain floating point, fp32's range with 8 bits of precision."""

from harness.precisions.floats import float_precision

PRECISION = float_precision(
    "bfloat16",
    __doc__,
    rules_of_thumb=dict.fromkeys(
        ("A10", "A100", "H100"), "the usual choice where it fits: no loss worth naming"
    ),
)
