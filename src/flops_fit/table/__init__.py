"""Tables of runs: what a law is fitted to, and how one is read from whatever holds it."""

from flops_fit.table._build import read_raw
from flops_fit.table._names import check_mapping, find_numbers, wanted
from flops_fit.table._sources import Raw, filled_of
from flops_fit.table._table import RunTable
from flops_fit.table._tracked import curve_rows
from flops_fit.table._values import is_missing, numbers

__all__ = [
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
