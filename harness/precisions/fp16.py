"""fp16: IEEE half precision; overflows above 65,504."""

from harness.precisions.floats import float_precision

PRECISION = float_precision("float16", __doc__)
