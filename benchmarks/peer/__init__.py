"""What the comparisons with lm-evaluation-harness share: a model, items, and the two sides.

Runs in the peers' environment (`make bench-peers`), never with the package itself.
"""
