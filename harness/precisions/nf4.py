"""nf4: 4-bit NormalFloat, levels spaced for normally distributed weights, by bitsandbytes."""

from harness.precisions.four_bit import four_bit_precision

PRECISION = four_bit_precision(
    "nf4",
    __doc__,
    {
        "inference": "where 16 bits do not fit: the least loss of the 4-bit formats here",
        "fine-tuning": "with adapters in 16 bits (QLoRA): a quarter of the memory for weights",
    },
)
