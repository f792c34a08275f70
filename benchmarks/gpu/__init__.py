"""What `benchmarks/gpu_check.sh` runs; each file is a command of its own."""
