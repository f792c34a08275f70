"""One file per task: where its items come from and how a prompt is built.

A task is measured like a metric (see `harness.metrics`) and is named in ``measure:`` the same way.
To add one, write a file that ends in ``TASK = ...``: of multiple choice like `piqa`, with
`choice_task.choice_task`; of written answers like `gsm8k`, with `generative_task.generative_task`.
"""
