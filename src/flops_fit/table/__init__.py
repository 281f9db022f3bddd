"""Tables of runs: what a law is fitted to, and how one is read from whatever holds it."""

from flops_fit.table._table import RunTable

__all__ = ["RunTable"]
