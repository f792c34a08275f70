"""One file per task: where its items come from and how a prompt is built.

A task is measured like a metric (see `harness.metrics`) and is named in ``measure:`` the same way.
"""
