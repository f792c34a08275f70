"""fp16: IEEE half precision; overflows above 65,504."""

from harness.precisions.floats import float_precision

PRECISION = float_precision(
    "float16",
    __doc__,
    rules_of_thumb={"T4": "instead of bf16, for which it has no units"},
)
