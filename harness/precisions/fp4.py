"""fp4: 4-bit floating point (1 sign, 2 exponent, 1 mantissa bits), by bitsandbytes."""

from harness.precisions.four_bit import four_bit_precision

PRECISION = four_bit_precision("fp4", __doc__)
