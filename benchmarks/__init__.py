"""What flops-fit claims, measured: run a folder with ``python -m benchmarks.NAME``."""
