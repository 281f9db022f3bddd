"""Tables of runs: what a law is fitted to, and how one is read from whatever holds it."""

from flops_fit.table.columns import check_mapping, find_numbers, is_missing, numbers, wanted
from flops_fit.table.curves import Curve, Curves
from flops_fit.table.run_table import RunTable, read_raw
from flops_fit.table.sources import Raw, curve_rows, filled_of

__all__ = [
    "Curve",
    "Curves",
    "Raw",
    "RunTable",
    "check_mapping",
    "curve_rows",
    "filled_of",
    "find_numbers",
    "is_missing",
    "numbers",
    "read_raw",
    "wanted",
]
