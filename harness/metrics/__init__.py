"""One file per metric, found by its name, which is also its name in a suite's ``measure:``.

A file ends in ``METRIC``, a `harness.descriptions.Metric`; a small one is `metrics/footprint.py`,
one that runs the model and compares with the reference is `metrics/perplexity.py`. Both sides of a
run read it: the host for the description, a cell's process to measure. Importing one therefore
imports no torch; what only the cell's process needs (`harness.scoring`, `harness.timing`, numpy,
torch) is imported inside ``measure``. Files without a ``METRIC`` hold what several metrics share.
"""
