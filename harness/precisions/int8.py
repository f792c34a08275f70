"""int8: LLM.int8() by bitsandbytes, row-wise int8 with outlier columns kept in 16 bits.

Dettmers et al. 2022, https://arxiv.org/abs/2208.07339. The outlier columns are chosen over the
whole batch, so a token's logits depend slightly on what is batched with it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.descriptions import OptionsBase, Precision
from harness.precisions.quantised import ComputeDtype, check_quantised, default_dtype


class Options(OptionsBase):
    """``threshold``: activations above it go through the 16-bit path (6.0 in the paper).

    ``compute_dtype`` is that of everything around the int8 products; it defaults to float32 on a
    CPU and bfloat16 on CUDA.
    """

    threshold: float = Field(6.0, ge=0)
    compute_dtype: ComputeDtype | None = None

    def resolve_compute_dtype(self, device: str) -> ComputeDtype:
        """The dtype of what is not quantised, on ``device`` ('cpu' or 'cuda')."""
        return self.compute_dtype or default_dtype(device)


def load_arguments(options: Options, device: str) -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "dtype": getattr(torch, options.resolve_compute_dtype(device)),
        "quantization_config": BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=options.threshold
        ),
    }


def check(attested: dict[str, Any], options: Options, device: str) -> list[str]:
    wrong = check_quantised(attested, "int8", options.resolve_compute_dtype(device))
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
    quantisers=("int8_vectorwise_quant",),
)
