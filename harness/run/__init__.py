"""One invocation: what is measured next and where, and what is kept. No pytest, no torch."""
