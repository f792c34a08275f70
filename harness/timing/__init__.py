"""What speed and memory measurements share in the worker: rounds, peaks, workloads."""
