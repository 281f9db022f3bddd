"""Runs that determine no law are refused here, with the runs to add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, TableError
from flops_fit.records import Excluded
from flops_fit.table import RunTable

__all__ = ["check_runs"]

_LARGEST = 1e50


def check_runs(table: RunTable, parameters: int) -> RunTable:
    """The table's usable runs, each once, or an error that says what is missing.

    Raises
    ------
    FitError
        Not more runs than parameters, one size, one budget, D tied to N, or a loss without spread.
    TableError
        A column with values that no run can have.
    """
    columns = (table.params, table.tokens, table.flops, table.loss)
    # Powers and squares of anything beyond would leave floating point.
    sound: NDArray[np.bool_] = np.all(
        [(c > 1 / _LARGEST) & (c < _LARGEST) for c in columns], axis=0
    )
    if not np.all(sound):
        what = f"N, D, C or loss is no positive number from {1 / _LARGEST:g} to {_LARGEST:g}"
        table = table.select(sound, what)
    if len(table) == 0:
        reasons = "; ".join(f"{e.label}: {e.reason}" for e in table.excluded[:3])
        raise TableError(f"expected runs with positive N, D and loss; none is left ({reasons}).")
    table = _once(table)
    count = len(table)
    distinct = len(np.unique(np.column_stack([table.params, table.tokens]), axis=0))
    if distinct <= parameters:
        raise FitError(
            f"expected more than {parameters} runs of different N or D, as many as the law has "
            f"parameters; got {count} ({distinct} different). Add {parameters + 1 - distinct} or "
            "more runs: five sizes at each of four budgets is a good sweep."
        )
    sizes = len(np.unique(table.params))
    if sizes < 2:
        raise FitError(
            f"expected several model sizes; all {count} runs have N = {table.params[0]:.3g}, which "
            "cannot show what size does. Add runs at other sizes."
        )
    if len(np.unique(table.budget)) < 2:
        raise FitError(
            f"expected two budgets or more; all {count} runs have C ≈ {table.budget[0]:.3g}, where "
            "N and D trade off exactly and cannot be told apart. Add runs at other budgets."
        )
    x, y = np.log(table.params), np.log(table.tokens)
    spread = np.linalg.svd(np.column_stack([x - x.mean(), y - y.mean()]), compute_uv=False)
    if spread[1] < 1e-3 * spread[0]:
        raise FitError(
            f"expected N and D to vary independently; in these {count} runs one follows from the "
            "other. Add runs with other numbers of tokens at the same sizes."
        )
    if np.ptp(table.loss) <= 1e-12 * np.max(table.loss):
        raise FitError(
            f"expected losses that differ between runs; all {count} are {table.loss[0]:.6g}. "
            "Check the loss column."
        )
    return table


def _once(table: RunTable) -> RunTable:
    """Without rows equal in N, D, C and loss: one run logged twice is no second observation."""
    rows = np.column_stack([table.params, table.tokens, table.flops, table.loss])
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(table):
        return table
    keep = np.zeros(len(table), dtype=bool)
    keep[first] = True
    original = first[which.ravel()]
    twice = tuple(
        Excluded(table.labels[i], f"the same N, D, C and loss as {table.labels[original[i]]}")
        for i in np.flatnonzero(~keep).tolist()
    )
    return replace(table.select(keep), excluded=table.excluded + twice)
