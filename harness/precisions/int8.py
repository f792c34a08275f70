"""int8: LLM.int8() by bitsandbytes, row-wise int8 with outlier columns kept in 16 bits.

Dettmers et al. 2022, https://arxiv.org/abs/2208.07339. The outlier columns are chosen over the
whole batch, so a token's logits depend slightly on what is batched with it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.options import OptionsBase

DEVICES = ("cpu", "cuda")


class Options(OptionsBase):
    """``threshold``: activations above it go through the 16-bit path (6.0 in the paper)."""

    threshold: float = Field(6.0, ge=0)


def load_arguments(options: Options, device: str) -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    return {
        # The CUDA kernels compute in fp16; a CPU has no fp16 speed to win, so keep fp32 there.
        "dtype": torch.float16 if device == "cuda" else torch.float32,
        "quantization_config": BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=options.threshold
        ),
    }


def check(attested: dict[str, Any], options: Options, device: str) -> list[str]:
    wrong = []
    if attested["quantisation"] != "int8":
        wrong.append(f"declared int8, loaded as {attested['quantisation'] or 'unquantised'}")
    elif attested["threshold"] != options.threshold:
        wrong.append(
            f"declared outlier threshold {options.threshold}, loaded with {attested['threshold']}"
        )
    return wrong
