"""nf4: 4-bit NormalFloat, levels spaced for normally distributed weights, by bitsandbytes."""

from harness.precisions.four_bit import four_bit_precision

PRECISION = four_bit_precision("nf4", __doc__)
