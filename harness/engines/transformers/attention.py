"""The attention implementation that a suite declares for a model."""

from __future__ import annotations

import importlib.util
from typing import Any

from harness.errors import UnavailableError

# Package to install, and the module that it brings.
_PACKAGES = {
    "flash_attention_2": ("flash-attn", "flash_attn"),
    "flash_attention_3": ("flash-attn-3", "flash_attn_interface"),
}


def attention_arguments(attention: str | None, device: str) -> dict[str, Any]:
    """``from_pretrained`` keywords; none leaves the choice to transformers.

    Raises `UnavailableError` where this machine or device has no such implementation.
    """
    if attention is None:
        return {}
    if attention in _PACKAGES:
        package, module = _PACKAGES[attention]
        if not device.startswith("cuda"):
            raise UnavailableError(
                f"attention {attention} runs on CUDA only, this cell is on {device}"
            )
        if importlib.util.find_spec(module) is None:
            raise UnavailableError(
                f"attention {attention} needs the package {package}, which is not installed"
            )
    return {"attn_implementation": attention}


def check_attention(attested: dict[str, Any], declared: str | None) -> list[str]:
    """The difference between the declared implementation and the one that is called."""
    found = attested["attention"]
    if declared is None or found == declared:
        return []
    return [f"declared attention {declared}, loaded with {found}"]
