"""fp32: IEEE single precision, TF32 switched off; the usual reference."""

from harness.precisions.floats import float_precision

PRECISION = float_precision("float32", __doc__)
