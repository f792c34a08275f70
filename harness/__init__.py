"""precision-harness: measure what each precision of a language model costs and gains."""

__version__ = "0.1.0"
