"""int8: LLM.int8() by bitsandbytes, row-wise int8 with outlier columns kept in 16 bits.

Dettmers et al. 2022, https://arxiv.org/abs/2208.07339. The outlier columns are chosen over the
whole batch, so a token's logits depend slightly on what is batched with it.
"""

from typing import Any

from pydantic import Field

from harness.descriptions import Device, OptionsBase, Precision
from harness.precisions.bitsandbytes import (
    LAYERS,
    ComputeDtype,
    choose_dtype,
    quantise_while_loading,
)
from harness.precisions.checks import check_quantised


class Options(OptionsBase):
    """``threshold``: activations above it go through the 16-bit path (6.0 in the paper).

    ``compute_dtype`` is that of everything around the int8 products; it defaults to float32 on a
    CPU and bfloat16 on CUDA, float16 below compute capability 8.0. The products themselves pass
    through float16 on CUDA, whatever it is.
    """

    threshold: float = Field(6.0, ge=0)
    compute_dtype: ComputeDtype | None = None


def load_arguments(options: Options, device: Device) -> dict[str, Any]:
    return quantise_while_loading(
        choose_dtype(options.compute_dtype, device),
        load_in_8bit=True,
        llm_int8_threshold=options.threshold,
    )


def check(attested: dict[str, Any], options: Options, device: Device) -> list[str]:
    wrong = check_quantised(attested, "int8", choose_dtype(options.compute_dtype, device))
    if attested["quantisation"] == "int8" and attested["threshold"] != options.threshold:
        wrong.append(
            f"declared outlier threshold {options.threshold}, loaded with {attested['threshold']}"
        )
    return wrong


PRECISION = Precision(
    help=__doc__ or "",
    options=Options,
    load_arguments=load_arguments,
    check=check,
    layers=LAYERS,
    rules_of_thumb={"T4": "where fp16 does not fit; less loss than 4 bits, often slower than fp16"},
    matrix_bytes=lambda options, rows, columns: (rows * columns, 4 * rows),  # a scale per row
)
