"""Tables of runs: what a law is fitted to, and how one is read from whatever holds it."""

from flops_fit.table.curves import Curve, Curves
from flops_fit.table.run_table import RunTable

__all__ = ["Curve", "Curves", "RunTable"]
