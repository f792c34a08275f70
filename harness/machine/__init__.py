"""What a run runs on: its environment, GPUs by NVML, telemetry, the cache folder. No torch."""
