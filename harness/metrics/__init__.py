"""One file per metric, found by its name, which is also its name in a suite's ``measure:``.

A file ends in ``METRIC``, a `harness.descriptions.Metric` (a small one: `metrics/footprint.py`).
Both sides of a run read it, so importing one imports no torch: what only the cell's process needs
is imported inside ``measure``. Files without a ``METRIC`` hold what several metrics share.
"""
