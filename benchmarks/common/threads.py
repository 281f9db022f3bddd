"""One thread for the linear algebra of a benchmark, to be set before NumPy is first imported."""

from __future__ import annotations

import os


def one_thread() -> None:
    """Let NumPy, SciPy and torch compute in one thread from their first import on."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
