"""How much each run counts before any window: alike, by its standard error, or as the user says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.fit._solve import solve_surface
from flops_fit.fit._surface import points_of
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable

__all__ = ["run_weights"]

Floats = NDArray[np.float64]


def run_weights(rule: Any, runs: RunTable, log: bool) -> Floats:
    """One weight a run, shape (runs,).

    ``"loss_se"`` weighs by 1/(τ² + se²), the precision of a run that scatters around the law by τ
    beside the error of its own measurement. τ² is what is left of the scatter around a first fit
    after the median se² (never below zero), so errors far below the scatter change nothing. A run
    whose standard error is not known takes the median one.

    Raises
    ------
    InputError
        Weights that are not one positive number (or zero) a run, or a rule that does not exist.
    TableError
        ``"loss_se"`` without a column of standard errors.
    """
    if isinstance(rule, str):
        if rule == "equal":
            return np.ones(len(runs))
        if rule == "loss_se":
            return _precision(runs, log)
        raise InputError(f"expected weights='equal', 'loss_se' or numbers; got {rule!r}.")
    try:
        given = np.asarray(rule, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputTypeError(
            f"expected weights='equal', 'loss_se' or one number a run; got {type(rule).__name__}."
        ) from None
    if given.shape != (len(runs),):
        raise InputError(
            f"expected one weight for each of the {len(runs)} usable runs; got the shape "
            f"{given.shape}. Leave out the weights of runs that cannot be used."
        )
    if not (np.all(np.isfinite(given)) and np.all(given >= 0) and np.any(given > 0)):
        raise InputError("expected weights that are finite and not negative, some above zero.")
    return given


def _precision(runs: RunTable, log: bool) -> Floats:
    if runs.loss_se is None or not np.any(runs.loss_se > 0):
        raise TableError(
            "expected a column of standard errors for weights='loss_se'; the table has none. Add a "
            "column 'loss_se', or use weights='equal'."
        )
    known = np.isfinite(runs.loss_se) & (runs.loss_se > 0)
    error = np.where(known, runs.loss_se, np.median(runs.loss_se[known]))
    points = points_of(runs, log)
    first = solve_surface(Hoffmann.name, points, np.ones(len(runs)), "mad")
    variance = (error / (runs.loss if log else points.scale)) ** 2
    scatter = max(first.residual_sd**2 - float(np.median(variance)), 0.0)
    precision = 1 / (scatter + variance)
    return np.asarray(precision / np.max(precision))
