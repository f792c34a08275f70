"""nf4 and fp4: bitsandbytes' 4-bit blocks of 64 weights with one scale each.

Dettmers et al. 2023 (QLoRA), https://arxiv.org/abs/2305.14314; double quantisation stores the
scales themselves in 8 bits.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from harness.descriptions import Device, OptionsBase, Precision
from harness.precisions.bitsandbytes import (
    LAYERS,
    ComputeDtype,
    choose_dtype,
    quantise_while_loading,
)
from harness.precisions.checks import check_quantised

_BLOCK_SIZE, _NESTED_BLOCK_SIZE = 64, 256


class FourBitOptions(OptionsBase):
    """``compute_dtype`` defaults to float32 on a CPU and bfloat16 on CUDA.

    Below compute capability 8.0 to float16.
    """

    double_quant: bool = False
    compute_dtype: ComputeDtype | None = None


def four_bit_precision(
    kind: str, help_text: str | None, rules_of_thumb: Mapping[str, str] | None = None
) -> Precision:
    """The precision of one 4-bit ``kind``, 'nf4' or 'fp4'."""

    def load_arguments(options: FourBitOptions, device: Device) -> dict[str, Any]:
        dtype = choose_dtype(options.compute_dtype, device)
        return quantise_while_loading(
            dtype,
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,  # load_in_4bit=True alone is fp4
            bnb_4bit_use_double_quant=options.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )

    return Precision(
        help=help_text or "",
        options=FourBitOptions,
        load_arguments=load_arguments,
        check=partial(_check, kind),
        prepare=_choose_cpu_kernel,
        layers=LAYERS,
        matrix_bytes=_count_bytes,
        rules_of_thumb=rules_of_thumb or {},
        variants={f"{kind}-dq": {"double_quant": True}},
    )


def _count_bytes(options: FourBitOptions, rows: int, columns: int) -> tuple[int, int]:
    """Half a byte each; a block's scale in float32, and the 16 levels.

    Double quantisation has scales of a byte, with a scale per block of them, an offset, 256 levels.
    """
    blocks = -(-rows * columns // _BLOCK_SIZE)
    if not options.double_quant:
        return -(-rows * columns // 2), 4 * (blocks + 16)
    nested = -(-blocks // _NESTED_BLOCK_SIZE)
    return -(-rows * columns // 2), blocks + 4 * (nested + 1 + 256 + 16)


def _choose_cpu_kernel(model: Any, options: FourBitOptions, device: Device) -> None:
    """Keep bitsandbytes from computing in another way than declared.

    On a CPU with AVX512-BF16, bitsandbytes 0.49+ repacks a layer at its first forward pass in
    eval mode: scales become bfloat16, double quantisation is undone, products are bfloat16
    whatever the compute dtype, and layers whose rows are no multiple of 32 raise. It stays on
    only where that was asked for: bfloat16, no double quantisation, every shape supported.
    """
    if device.type != "cpu":
        return
    layers = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    wanted = options.compute_dtype == "bfloat16" and not options.double_quant
    fits = all(m.out_features % 32 == 0 and m.in_features % 64 == 0 for m in layers)
    if not (wanted and fits):
        for layer in layers:
            layer.support_avx512bf16_for_cpu = False


def _check(
    kind: str, attested: dict[str, Any], options: FourBitOptions, device: Device
) -> list[str]:
    dtype = choose_dtype(options.compute_dtype, device)
    wrong = check_quantised(attested, kind, dtype)
    if attested["quantisation"] != kind:
        return wrong
    declared = {
        "block_size": _BLOCK_SIZE,
        "quant_storage": "uint8",
        "double_quant": options.double_quant,
        "nested_block_size": _NESTED_BLOCK_SIZE if options.double_quant else None,
        "compute_dtype": dtype,
    }
    return wrong + [
        f"declared {name} {value}, loaded with {attested[name]}"
        for name, value in declared.items()
        if attested[name] != value
    ]
