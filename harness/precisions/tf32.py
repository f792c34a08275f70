"""tf32: weights in fp32, CUDA matrix products in TensorFloat-32 (10-bit mantissa).

Only CUDA has it: on a CPU the same switch would silently measure fp32 under another name.
"""

from harness.precisions.floats import float_precision

PRECISION = float_precision(
    "float32",
    __doc__,
    tf32=True,
    devices=("cuda",),
    min_capability=(8, 0),  # Ampere; older cards compute plain fp32
)
