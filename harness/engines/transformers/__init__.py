"""The transformers engine: loads, checks and asks a model through transformers."""

from harness.engines.transformers.loading import load_cell as load
from harness.engines.transformers.sizes import size_up

__all__ = ["load", "preload", "size_up"]


def preload() -> None:
    """Import the most common architecture, and the table of renamed weights every load needs."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.models.llama import modeling_llama  # noqa: F401

    get_checkpoint_conversion_mapping("llama")
