"""Which runs a law is fitted to, and how much each counts.

Far arms are where the form of every law is least right and hyper-parameters are least tuned. The
window follows the *fitted* N*(C) of each run's own compute, never the noisy best run, its edge is
soft, and fit and window are iterated until they agree. Where the law is only nearly right over the
whole range of compute, the runs nearest to the question say most: the tilt weighs a run by
(C/C_max)^tilt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.fit.solver import BoundKind, Solution, solve_surface
from flops_fit.fit.surface import points_of
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.kappa import Hoffmann
from flops_fit.laws.law import Law
from flops_fit.table.run_table import RunTable

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


_SOFTNESS = np.log(1.5)
_WIDEST, _NARROWING = 60.0, 0.6
_EACH = 1000
_PER_BUDGET = 3.0
_SPARE_RUNS = 3


@dataclass(frozen=True)
class WindowReport:
    """What the window did: its factor and tilt, whether it was used, and N* with and without it.

    A run of compute C counts (C/C_max)^tilt. ``params_with`` and ``params_without`` are N* at the
    largest run's compute.
    """

    factor: float | None
    tilt: float
    used: bool
    reason: str
    kept: int
    compute: float
    params_with: float | None
    params_without: float


def window_weights(
    solution: Solution, runs: RunTable, flops: FlopsFunction, factor: float, tilt: float = 0.0
) -> Floats:
    """(C/C_max)^tilt within ``factor`` of N*(C), falling to 0 at 1.5 times that distance.

    The edge is a raised cosine in ln N.
    """
    best = _optimal_log_size(solution.law, runs.flops, flops)
    distance = np.abs(np.log(runs.params) - best) - np.log(factor)
    edge = np.clip(distance / _SOFTNESS, 0.0, 1.0)
    inside = np.where(edge < 1, 0.5 + 0.5 * np.cos(np.pi * edge), 0.0)
    return np.asarray(inside * (runs.flops / np.max(runs.flops)) ** tilt)


def _optimal_log_size(law: Law, C: Floats, flops: FlopsFunction) -> Floats:
    """Ln N*(C) of each run; interpolated in ln C where there are many."""
    if len(C) <= _EACH:
        return np.asarray(np.log(law.optimal(C, flops).params))
    along = np.geomspace(np.min(C), np.max(C), _EACH)
    known = np.log(np.asarray(law.optimal(along, flops).params))
    return np.asarray(np.interp(np.log(C), np.log(along), known))


def settle_window(
    solution: Solution,
    refit: Callable[[Floats, Solution], Solution],
    runs: RunTable,
    flops: FlopsFunction,
    factor: float,
    tilt: float,
    base: Floats,
    rounds: int = 20,
) -> tuple[Floats | None, str]:
    """Weights that agree with the fit made under them, or ``None`` and why there are none.

    ``base`` is how much each run counts before the window.

    The window starts wide and narrows as the fit follows: a fit to far arms can be so far off that
    its own optimum lies where no runs are.
    """
    weights: Floats | None = None
    wide = _WIDEST
    for _ in range(rounds):
        if not _has_optimum(solution):
            return None, "the fit has no optimum to centre a window on"
        wide = max(_NARROWING * wide, factor)
        new = base * window_weights(solution, runs, flops, wide, tilt)
        reason = _too_few(new, runs, len(solution.law.params))
        if reason:
            return None, reason
        if wide == factor and weights is not None and np.max(np.abs(new - weights)) < 1e-3:
            break
        weights = new if weights is None else 0.5 * (new + weights)
        weights = np.where(new > 0, weights, 0.0)
        solution = refit(weights, solution)
    return weights, ""


def _has_optimum(solution: Solution) -> bool:
    values = solution.law.params
    return (
        values.get("A", 1.0) > 0
        and values.get("B", 1.0) > 0
        and all(b.kind is not BoundKind.VANISHED for b in solution.bounds)
    )


def _too_few(weights: Floats, runs: RunTable, parameters: int) -> str:
    kept = weights > 0
    budgets, left = len(np.unique(runs.budget)), int(kept.sum())
    if left < _PER_BUDGET * budgets:
        return f"it would leave {left} runs, fewer than {_PER_BUDGET:g} a budget"
    if left <= parameters + _SPARE_RUNS:
        return f"it would leave {left} runs for {parameters} parameters"
    if np.max(runs.flops[kept]) < 0.5 * np.max(runs.flops):
        return "it would leave no run of the largest budget"
    logs = np.column_stack([np.ones(left), np.log(runs.params[kept]), np.log(runs.tokens[kept])])
    if np.linalg.matrix_rank(logs - logs.mean(axis=0) * [0, 1, 1], tol=1e-3) < 3:
        return "the runs it would leave do not tell N from D"
    return ""
