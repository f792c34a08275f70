"""The transformers engine: loads, checks and asks a model through transformers."""
