"""What flops-fit claims, measured: run a module with ``python -m benchmarks.NAME``."""
