"""Refits to resampled runs: batched Newton steps from the fit, no search."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, InputError
from flops_fit.fit._newton import polish
from flops_fit.fit._sandwich import covariance
from flops_fit.fit._solve import Solution

__all__ = ["BootstrapKind", "refits"]

Floats = NDArray[np.float64]
BootstrapKind = Literal["case", "wild", "parametric"]


def refits(solution: Solution, n: int, kind: str, seed: int) -> Floats:
    """θ of ``n`` refits, shape (n, 6).

    - ``"case"``: runs (clusters of runs, where there are some) drawn with replacement, as integer
      weights on the same points.
    - ``"wild"``: fitted values plus residuals/(1−h) times ±1 (Davidson & Flachaire 2008).
    - ``"parametric"``: fitted values plus normal noise of the residuals' robust sd.
    """
    if kind not in ("case", "wild", "parametric"):
        raise InputError(f"expected kind='case', 'wild' or 'parametric'; got {kind!r}.")
    if solution.full is None:
        raise FitError(
            f"expected the additive or the κ-law to resample; got {type(solution.law).__name__}. "
            "Use the intervals of predict()."
        )
    rng = np.random.default_rng(seed)
    points, used = solution.points, np.flatnonzero(solution.weights)
    weights, targets = solution.weights, None
    if kind == "case":
        _, units = np.unique(
            used if points.groups is None else points.groups[used], return_inverse=True
        )
        count = int(units.max()) + 1
        drawn = np.zeros((n, len(points.z)))
        drawn[:, used] = rng.multinomial(count, np.full(count, 1 / count), size=n)[:, units.ravel()]
        weights = drawn * solution.weights
    else:
        fitted = points.z - solution.residuals
        if kind == "wild":
            leverage = np.minimum(covariance(solution).leverage, 0.9)
            noise = (
                rng.choice([-1.0, 1.0], size=(n, len(fitted))) * solution.residuals / (1 - leverage)
            )
        else:
            noise = rng.normal(0.0, solution.residual_sd, size=(n, len(fitted)))
        targets = fitted + noise
        if not points.log:
            targets = np.maximum(targets, 1e-6)
    free = np.ones(6, dtype=bool)
    free[5] = "kappa" in solution.law.params
    start = np.repeat(solution.full[None], n, axis=0)
    return polish(start, points, weights, solution.delta, free, targets=targets).theta
