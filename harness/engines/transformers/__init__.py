"""The transformers engine: loads, checks and asks a model through transformers."""

from harness.engines.transformers.loading import load_cell as load

__all__ = ["load"]
